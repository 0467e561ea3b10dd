"""The lock of a run folder."""

import threading

import pytest

from spacescale.checkpoint.layout import holds_run
from spacescale.errors import UserError
from spacescale.parallel.run_folder import lock_run


def test_only_one_run_at_a_time_holds_a_folder(tmp_path):
    held = lock_run(tmp_path / "new")
    with pytest.raises(UserError, match="new: in use by another run"):
        lock_run(tmp_path / "new", wait_s=0)
    held.close()
    lock_run(tmp_path / "new").close()
    assert not holds_run(tmp_path / "new"), "a lock alone is no run"


def test_a_start_waits_for_the_end_of_the_run_before(tmp_path, capsys):
    held = lock_run(tmp_path)
    threading.Timer(0.5, held.close).start()
    lock_run(tmp_path, wait_s=60).close()
    assert capsys.readouterr().err == (
        f"{tmp_path}: in use by another run; waiting up to 60 s for its end\n"
    )
