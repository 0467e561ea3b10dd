"""When a run begins in its folder, and that one which cannot leaves it as it was."""

from unittest import mock

import pytest
from made_up_checkpoints import write_checkpoint

from spacescale.checkpoint.found import find_start
from spacescale.errors import UserError
from spacescale.metrics.history import read_history
from spacescale.train import run as train_run


@pytest.fixture
def folder(tmp_path):
    """A run of which the checkpoints of steps 100, 200 and 300 are there, and that is done."""
    for step in (100, 200, 300):
        write_checkpoint(tmp_path, step, lineage=[{"id": "a", "step": 0}])
    (tmp_path / "DONE").touch()
    return tmp_path


def begin(folder, resume, refusal=None):
    with mock.patch.object(train_run, "check_compatible", side_effect=refusal):
        return train_run._begin(folder, find_start(folder, resume), *[mock.Mock()] * 3)


def test_a_run_told_to_go_back_stands_there_before_its_first_step(folder):
    back = folder / "checkpoints/step-00000100"
    record, checkpoint = begin(folder, str(back))
    assert checkpoint == back and find_start(folder, "auto").checkpoint == back
    (start,) = read_history(folder)
    assert start == record.start and (start.first_step, start.resumed_from) == (100, str(back))
    assert not (folder / "DONE").exists()


def test_what_was_set_aside_is_gone_on_from_under_its_proper_name(folder):
    begin(folder, str(folder / "checkpoints/step-00000100"))
    _, checkpoint = begin(folder, str(folder / "checkpoints/step-00000300.aside-1"))
    assert checkpoint == folder / "checkpoints/step-00000300" and checkpoint.is_dir()


def test_a_run_that_is_refused_changes_nothing(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="another seed"):
        begin(folder, str(folder / "checkpoints/step-00000100"), UserError("another seed"))
    assert sorted(folder.rglob("*")) == before
