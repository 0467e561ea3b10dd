"""What `evaluate` needs before it computes."""

from types import SimpleNamespace

import pytest

from spacescale.errors import UserError
from spacescale.evals import evaluation


def test_data_that_were_moved_are_asked_for(tmp_path, monkeypatch):
    trained = SimpleNamespace(data_paths=[tmp_path / "old/finch"])
    monkeypatch.setattr(evaluation, "load_trained", lambda path: trained)
    with pytest.raises(UserError, match=r"old/finch, which is not there; give --data"):
        evaluation.evaluate(tmp_path / "run", [])
