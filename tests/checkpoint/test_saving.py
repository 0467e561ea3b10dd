"""Saves beside training: what is written is the state of their step, whatever happens meanwhile."""

import threading
from pathlib import Path

import pytest
from reshaping import SAVED_AT, Layout, checkpoint, start, train

from spacescale.checkpoint import found, layout, manager
from spacescale.errors import UserError
from spacescale.files import files_below
from spacescale.parallel import comm
from spacescale.testing.ranks import run_ranks

LAYOUTS = [Layout(2, 2, 2), Layout(2, 1, 3)]
STEPS = 2  # while the save is under way


def begin(run, step):
    run.manager.save(step, {}, 0.0, False, with_probe=True)


def all_ready(run) -> bool:
    return all(comm.gather(run.manager.is_ready))


def save_both_ways(folder: Path) -> list[dict]:
    """Save each layout beside training and waiting for it."""
    return [_save_both_ways(folder, of_run) for of_run in LAYOUTS]


def _save_both_ways(folder: Path, of_run: Layout) -> dict:
    held, sound = threading.Event(), manager.save_tensors
    seen = {}

    def hold(*args):
        held.wait()
        return sound(*args)

    for beside in (True, False):
        run = start(folder / f"{of_run}-{beside}", of_run, beside=beside)
        train(run, 0, SAVED_AT)
        manager.save_tensors = hold if beside else sound
        begin(run, SAVED_AT)
        if beside:
            losses = train(run, SAVED_AT, SAVED_AT + STEPS)
            seen["ready while held"] = run.manager.is_ready
            seen["found while held"] = found.find_checkpoint(folder / f"{of_run}-{beside}")
            held.set()
        run.manager.finish()
        if not beside:
            losses = train(run, SAVED_AT, SAVED_AT + STEPS)
        seen[beside] = losses
    return seen


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    return folder, run_ranks(save_both_ways, 2, folder)


@pytest.mark.parametrize("number", range(len(LAYOUTS)), ids=map(str, LAYOUTS))
def test_training_goes_on_and_the_files_are_those_of_a_save_that_it_waited_for(both, number):
    folder, ranks = both
    for seen in (rank[number] for rank in ranks):
        assert not seen["ready while held"] and seen["found while held"] is None
        assert seen[True] == seen[False]  # losses, to the bit
    beside, waited = (checkpoint(folder, f"{LAYOUTS[number]}-{way}") for way in (True, False))
    layout.verify(beside)
    names = [path.relative_to(beside) for path in files_below(beside)]
    assert names == [path.relative_to(waited) for path in files_below(waited)]
    compared = [name for name in names if name.suffix == ".safetensors"]
    assert len(compared) == 6  # two ranks' pieces and random states, buffers, the probe
    for name in compared:
        assert (beside / name).read_bytes() == (waited / name).read_bytes(), name


def fail_beside_training(folder: Path) -> list[str]:
    """A sound save, then one that rank 1 cannot write: what all ranks say to it."""
    run = start(folder / "run", LAYOUTS[0])
    begin(run, 0)
    run.manager.finish()
    train(run, 0, 1)
    sound = manager.save_tensors

    def full(tensors, path, progress):
        if comm.rank() == 1:
            raise UserError(f"{path.name}: cannot be written: No space left on device")
        return sound(tensors, path, progress)

    manager.save_tensors = full
    begin(run, 1)
    train(run, 1, 2)
    while not all_ready(run):
        pass
    with pytest.raises(UserError) as caught:
        run.manager.advance()
    comm.gather(None)  # wait for all
    assert [p.name for p in run.manager.folder.iterdir() if p.is_dir()] == ["step-00000000"]
    return str(caught.value)


def test_a_rank_that_cannot_write_is_named_by_all_and_leaves_the_checkpoint_before(tmp_path):
    first, second = run_ranks(fail_beside_training, 2, tmp_path)
    assert first == "rank 1: state-00001.safetensors: cannot be written: No space left on device"
    assert first == second
    found.require_sound(found.find_checkpoint(tmp_path / "run"))


def wait_long(folder: Path) -> int:
    """Save while the disk takes little at a time: how often was it said that it gets on?"""
    run, told = start(folder / "run", Layout(1, 1, 1)), []
    sound = manager.save_tensors
    run.manager.while_waiting = lambda: told.append(1)

    def slowly(tensors, path, progress):
        for _ in range(3):
            threading.Event().wait(0.15)
            progress.bytes_done += 1
        return sound(tensors, path, progress)

    from spacescale.checkpoint import saving

    saving.POLL_S = 0.05
    manager.save_tensors = slowly
    begin(run, 0)
    run.manager.finish()
    return len(told)


def test_a_slow_save_that_is_waited_for_shows_that_it_gets_on(tmp_path):
    assert run_ranks(wait_long, 1, tmp_path) >= [3]
