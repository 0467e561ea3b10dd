"""`spacescale checkpoints`: list, verify, prune, go back."""

import os
import re
import time

import pytest
from commands import SPACESCALE, run_here
from made_up_checkpoints import flip, write_checkpoint

from spacescale.checkpoint import layout, overview
from spacescale.checkpoint.found import find_start, list_checkpoints
from spacescale.errors import UserError
from spacescale.parallel.run_folder import lock_run


@pytest.fixture
def run(tmp_path):
    """A run of three checkpoints and one that was set aside."""
    run = tmp_path / "run"
    for step, score in ((100, 0.1), (200, 0.5), (300, 0.4), (400, 0.45)):
        write_checkpoint(run, step, score)
    write_checkpoint(run, 250).rename(run / "checkpoints/step-00000250.aside-1")
    os.utime(run / "checkpoints/step-00000100", (0, time.time() - 2 * 86_400))
    return run


def steps(run):
    return [layout.step_of(path) for path in list_checkpoints(run / "checkpoints")]


def command(run, *words):
    return run_here(SPACESCALE, "checkpoints", run, *words)


def test_the_table_says_what_each_one_is(run):
    lines = overview.table(overview.look(run)).splitlines()
    assert lines[0].split() == ["checkpoint", "age", "size", "validation", "state"]
    assert re.fullmatch(r"step-00000100 +2 d +\d\.\d KiB +0\.1000", lines[1])
    assert re.fullmatch(r"step-00000200 +\d+ \w+ +\d\.\d KiB +0\.5000  best", lines[2])
    assert lines[4].endswith("0.4500  newest")
    assert re.fullmatch(r"step-00000250\.aside-1 .* -  set aside", lines[5])
    assert not any("sound" in line for line in lines)


def test_verify_reads_all_and_ends_with_2_where_one_is_damaged(run):
    done = command(run, "verify")
    assert done.returncode == 0 and done.stdout.count("sound") == 5
    flip(run / "checkpoints/step-00000200/state-00000.safetensors")
    done = command(run, "verify")
    assert done.returncode == 2 and done.stderr == f"error: {run}: damaged: step-00000200\n"
    assert done.stdout.count("sound") == 4
    assert re.search(r"best, damaged: .*step-00000200/state-00000\.safetensors: dam", done.stdout)


def test_prune_removes_what_the_run_does_not_keep_and_never_the_newest_sound_one(run):
    done = command(run, "prune")
    assert done.returncode == 0 and done.stdout.count("removed") == 1
    assert steps(run) == [200, 300, 400]
    flip(run / "checkpoints/step-00000400/state-00000.safetensors")
    removed = overview.prune(run, keep_last=1, set_aside=True)
    assert [path.name for path in removed] == ["step-00000250.aside-1"]
    assert steps(run) == [200, 300, 400], "300 is the newest sound one, 200 the best"


def test_prune_removes_nothing_where_none_is_sound_or_the_run_goes_on(run):
    held = lock_run(run)
    with pytest.raises(UserError, match="run: in use by another run"):
        overview.prune(run, keep_last=1)
    held.close()
    for step in (100, 200, 300, 400):
        flip(run / f"checkpoints/step-00000{step}/buffers.safetensors")
    with pytest.raises(UserError, match="no sound checkpoint"):
        overview.prune(run, keep_last=1)
    assert steps(run) == [100, 200, 300, 400]


def test_going_back_sets_aside_what_lies_beyond(run):
    done = command(run, "back", "200")
    assert done.returncode == 0, done.stderr
    assert "goes on from step-00000200 with --resume auto" in done.stdout
    assert steps(run) == [100, 200]
    assert find_start(run, "auto").checkpoint == run / "checkpoints/step-00000200"
    overview.go_back(run, "step-00000400.aside-1")
    assert steps(run) == [100, 200, 400]


def test_going_back_to_nothing_or_to_a_damaged_one_is_refused(run):
    with pytest.raises(UserError, match="no checkpoint step-00000150; there are: step-00000100, "):
        overview.go_back(run, "150")
    flip(run / "checkpoints/step-00000200/state-00000.safetensors")
    with pytest.raises(UserError, match="damaged"):
        overview.go_back(run, "200")
    assert steps(run) == [100, 200, 300, 400]


@pytest.mark.parametrize(
    "words, message",
    [
        (["back"], "STEP is given with back"),
        (["verify", "200"], "STEP is given with back"),
        (["list", "--keep-last", "2"], "options of prune"),
        (["prune", "--keep-last", "0"], "--keep-last 0: must be 1 or more"),
    ],
)
def test_words_that_do_not_fit_are_refused(run, words, message):
    done = command(run, *words)
    assert done.returncode == 2 and message in done.stderr


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(UserError, match="no run folder with checkpoints"):
        overview.look(tmp_path)
