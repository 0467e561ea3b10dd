"""Room for checkpoints: asked for at the start, made before a save, never by the last of them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_checkpoints import flip, write_checkpoint

from spacescale.checkpoint import found, layout, room
from spacescale.config import RunConfig
from spacescale.errors import UserError

MIB = 2**20
RUN = RunConfig(keep_last=2, keep_best=1)


@pytest.fixture
def disk(monkeypatch):
    """A disk with room for so many checkpoints of 1 MiB; those that are there take one each."""
    disk = SimpleNamespace(room_for=0)

    def usage(folder: Path):
        folder.resolve(strict=True)
        free = disk.room_for - len(list(folder.glob("step-*")))
        return SimpleNamespace(free=free * MIB)

    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    return disk


def steps(run):
    return [layout.step_of(path) for path in found.list_checkpoints(run / "checkpoints")]


def test_a_run_needs_room_for_all_that_is_kept_and_one_more(tmp_path, disk):
    folder = tmp_path / "not/made/yet/checkpoints"
    disk.room_for = 4
    room.require_room_for_run(folder, MIB, RUN)
    disk.room_for = 3
    with pytest.raises(UserError) as caught:
        room.require_room_for_run(folder, MIB, RUN)
    assert str(caught.value).startswith(f"{folder}: 4.0 MiB needed, 3.0 MiB free; a checkpoint ")
    assert "run.keep_last=2, run.keep_best=1" in str(caught.value)


def test_what_a_resumed_run_will_replace_counts_as_room(tmp_path, disk):
    for step in (1, 2):
        write_checkpoint(tmp_path, step)
    disk.room_for = 4
    room.require_room_for_run(tmp_path / "checkpoints", MIB, RUN)
    disk.room_for = 3
    with pytest.raises(UserError, match=r"2\.0 MiB needed, 1\.0 MiB free"):
        room.require_room_for_run(tmp_path / "checkpoints", MIB, RUN)


def make_room(run, disk, room_for, **settings):
    disk.room_for = room_for
    room.make_room_for_save(run / "checkpoints", MIB, [], RunConfig(**RUN.model_dump() | settings))


def test_where_there_is_room_nothing_goes(tmp_path, disk):
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step)
    make_room(tmp_path, disk, 4)
    assert steps(tmp_path) == [1, 2, 3]


def test_what_would_go_after_the_save_goes_before_it_but_never_the_best_and_the_newest(
    tmp_path, disk
):
    for step, score in ((1, 0.5), (2, 0.1), (3, 0.2)):
        write_checkpoint(tmp_path, step, score)
    make_room(tmp_path, disk, 3)
    assert steps(tmp_path) == [1, 3]


@pytest.mark.parametrize("settings", [{}, {"keep_last": 1}])
def test_too_little_room_is_said_with_both_figures(tmp_path, disk, settings):
    write_checkpoint(tmp_path, 3, 0.5)
    with pytest.raises(UserError, match=r"checkpoint: 1\.0 MiB needed, 0 bytes free; make room"):
        make_room(tmp_path, disk, 1, **settings)
    assert steps(tmp_path) == [3]


def test_nothing_goes_where_the_newest_is_damaged(tmp_path, disk):
    for step in (1, 2):
        write_checkpoint(tmp_path, step)
    flip(tmp_path / "checkpoints/step-00000002/state-00000.safetensors")
    with pytest.raises(UserError, match="no room for a checkpoint"):
        make_room(tmp_path, disk, 2)
    assert steps(tmp_path) == [1, 2]
