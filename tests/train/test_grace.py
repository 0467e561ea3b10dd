import logging

import pytest

from spacescale.errors import UserError
from spacescale.train.grace import Grace


def test_a_slow_save_is_said_once(monkeypatch, caplog):
    monkeypatch.setenv("SPACESCALE_GRACE_S", "120")
    grace = Grace()
    grace.check(60)
    assert not caplog.records
    grace.check(61)
    grace.check(200)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "saving took 61 s" in record.getMessage()
    assert "only 120 s before its kill" in record.getMessage()
    assert "--signal=B:USR1@240" in record.getMessage()


def test_without_a_grace_time_nothing_is_said(monkeypatch, caplog):
    monkeypatch.delenv("SPACESCALE_GRACE_S", raising=False)
    Grace().check(1e6)
    assert not caplog.records


@pytest.mark.parametrize("value", ["soon", "0", "-3", "inf", "nan"])
def test_values_that_are_no_time(monkeypatch, value):
    monkeypatch.setenv("SPACESCALE_GRACE_S", value)
    with pytest.raises(UserError, match=f"SPACESCALE_GRACE_S='{value}': must be a number"):
        Grace()
