"""Which checkpoint a run begins from, which lines of steps there are, and what is kept."""

import logging
import shutil

import pytest
import torch
from made_up_checkpoints import flip, state_of, write_checkpoint
from safetensors.torch import save_file

from spacescale.checkpoint import found, layout
from spacescale.config import RunConfig
from spacescale.errors import UserError

WHOLE = [{"id": "a", "step": 0}]
AFTER_A_STOP = [*WHOLE, {"id": "b", "step": 300}]
LEFT = [*WHOLE, {"id": "c", "step": 100}]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 100, 200 and 300, of which the second is the best."""
    for step, score in ((100, 0.1), (200, 0.5), (300, 0.4)):
        write_checkpoint(tmp_path / "run", step, score, lineage=WHOLE)
    return tmp_path / "run"


@pytest.fixture
def folder(run):
    return run / "checkpoints"


# ---- Which one is meant --------------------------------------------------------------------------


def test_a_run_its_checkpoints_folder_and_a_checkpoint_all_lead_to_a_checkpoint(run, folder):
    for path in (run, folder):
        assert found.find_checkpoint(path) == folder / "step-00000300"
        assert found.find_best(path) == folder / "step-00000200"
    first = folder / "step-00000100"
    assert found.find_checkpoint(first) == found.find_best(first) == first


@pytest.mark.parametrize(
    "hint", [None, b"", b"\xff\xfe", b"step-00000999", b"/etc/passwd", b"step-00000100"]
)
def test_latest_and_best_are_only_hints(run, folder, hint):
    for pointer in ("latest", "best"):
        if hint is not None:
            (folder / pointer).write_bytes(hint)
    assert found.find_checkpoint(run) == folder / "step-00000300"
    assert found.find_best(run) == folder / "step-00000200"
    assert found.find_start(run, "auto").checkpoint == folder / "step-00000300"
    found.settle_on(folder / "step-00000300")
    assert (folder / "latest").read_text() == "step-00000300"
    assert (folder / "best").read_text() == "step-00000200"


def test_without_scores_the_newest_stands_for_the_best(tmp_path):
    write_checkpoint(tmp_path, 1)
    newest = write_checkpoint(tmp_path, 2)
    assert found.find_best(tmp_path) == newest


def test_a_score_of_an_earlier_validation_does_not_count(tmp_path):
    first = write_checkpoint(tmp_path, 1, score=0.5)
    write_checkpoint(tmp_path, 2, metrics={"step": 1, "valid/pearson_log1p": 0.7})
    assert found.find_best(tmp_path) == first


def test_a_best_that_cannot_be_told_is_refused(run, folder):
    flip(folder / "step-00000200/spacescale.json")
    with pytest.raises(UserError, match=r"step-00000200/spacescale\.json.*so name a checkpoint"):
        found.find_best(run)


def test_unfinished_and_set_aside_ones_are_never_found(tmp_path):
    write_checkpoint(tmp_path, 3).rename(tmp_path / "checkpoints/step-00000003.partial")
    write_checkpoint(tmp_path, 2).rename(tmp_path / "checkpoints/step-00000002.aside-1")
    assert found.find_checkpoint(tmp_path) is None
    assert found.find_checkpoint(tmp_path / "nowhere") is None


# ---- Where a run begins --------------------------------------------------------------------------


def test_only_a_folder_that_never_held_a_checkpoint_begins_at_step_0(tmp_path, run, folder):
    assert found.find_start(tmp_path / "new", "auto") == found.Start()
    (tmp_path / "died/checkpoints").mkdir(parents=True)
    (tmp_path / "died/config.json").write_text("{}")
    assert found.find_start(tmp_path / "died", "auto") == found.Start()
    (folder / "latest").write_text("step-00000300")
    for step in (100, 200, 300):
        shutil.rmtree(folder / layout.step_name(step))
    with pytest.raises(UserError, match=r"held checkpoints \(latest\) and holds none"):
        found.find_start(run, "auto")
    write_checkpoint(tmp_path / "aside", 1)
    found.set_aside(tmp_path / "aside/checkpoints/step-00000001")
    with pytest.raises(UserError, match=r"held checkpoints \(step-00000001.aside-1\)"):
        found.find_start(tmp_path / "aside", "auto")


@pytest.mark.parametrize("resume", ["auto", "must"])
@pytest.mark.parametrize(
    "damage, what",
    [
        (lambda c: flip(c / "state-00000.safetensors"), "state-00000.safetensors: damaged"),
        (lambda c: (c / "manifest.json").write_bytes(b"\xff"), "manifest.json: damaged"),
        (lambda c: (c / "spacescale.json").unlink(), "spacescale.json: missing"),
        (shutil.rmtree, None),
    ],
)
def test_damaged_newest_ones_are_passed_over(run, folder, resume, damage, what):
    newest, next_one = folder / "step-00000300", folder / "step-00000200"
    damage(newest)
    (next_one / "buffers.safetensors").unlink()
    before = names(folder)
    start = found.find_start(run, resume)
    assert start.checkpoint == folder / "step-00000100"
    problems = [what] if what else []
    assert len(start.problems) == len(problems) + 1
    assert all(text in said for text, said in zip(problems, start.problems, strict=False))
    assert "step-00000200/buffers.safetensors: missing" in start.problems[-1]
    assert names(folder) == before, "nothing is changed before the run is known to go on"


def test_statistics_that_are_not_finite_are_no_sound_checkpoint(run, folder):
    bad = folder / "step-00000300"
    save_file({"running_mean": torch.tensor([1.0, torch.inf])}, bad / "buffers.safetensors")
    layout.write_manifest(bad)
    start = found.find_start(run, "auto")
    assert start.checkpoint == folder / "step-00000200"
    assert "running_mean is not finite" in start.problems[0]


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_where_none_is_sound_all_are_named_in_one_line(run, folder, resume):
    for step in (100, 200, 300):
        (folder / layout.step_name(step) / "buffers.safetensors").unlink()
    with pytest.raises(UserError, match="no sound checkpoint") as error:
        found.find_start(run, resume)
    assert all(layout.step_name(step) in str(error.value) for step in (100, 200, 300))
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_the_run_is_gone_back_to_and_must_be_sound(run, folder):
    first = folder / "step-00000100"
    assert found.find_start(run, str(first)) == found.Start(first)
    flip(first / "state-00000.safetensors")
    with pytest.raises(UserError, match=r"step-00000100/state-00000\.safetensors: damaged"):
        found.find_start(run, str(first))


def test_other_runs_are_branched_off_from_in_a_new_folder_only(run, folder, tmp_path):
    newest = folder / "step-00000300"
    flip(newest / "state-00000.safetensors")
    start = found.find_start(tmp_path / "new", str(run))
    assert start.checkpoint == folder / "step-00000200" and len(start.problems) == 1
    write_checkpoint(tmp_path / "other", 5)
    with pytest.raises(UserError, match=r"other: holds a run, which .*step-00000200 is not of"):
        found.find_start(tmp_path / "other", str(run))


BRANCH = [*WHOLE, {"id": "e", "step": 200}, {"id": "f", "step": 250}]


@pytest.mark.parametrize("origin", ["run", "run/checkpoints/step-00000200"])
def test_a_branch_that_is_begun_again_goes_on_from_its_own_newest(run, tmp_path, origin):
    """The same command, as Slurm gives it when a job is requeued."""
    branch, first = tmp_path / "branch", run / "checkpoints/step-00000200"
    (branch / "checkpoints").mkdir(parents=True)
    (branch / "config.json").write_text("{}")
    assert found.find_start(branch, str(first)) == found.Start(first)  # it had saved nothing
    for step, line in ((250, BRANCH[:2]), (300, BRANCH)):
        newest = write_checkpoint(branch, step, lineage=line)
    assert found.find_start(branch, str(tmp_path / origin)) == found.Start(newest)
    flip(newest / "state-00000.safetensors")
    start = found.find_start(branch, str(tmp_path / origin))
    assert start.checkpoint == branch / "checkpoints/step-00000250" and len(start.problems) == 1


def test_a_branch_of_another_step_or_a_copy_of_the_run_is_none_of_it(run, tmp_path):
    write_checkpoint(tmp_path / "branch", 300, lineage=BRANCH)
    shutil.copytree(run, tmp_path / "copy")
    for output, origin in (("branch", run / "checkpoints/step-00000300"), ("copy", run)):
        with pytest.raises(UserError, match=f"{output}: holds a run, which .* is not of"):
            found.find_start(tmp_path / output, str(origin))


# ---- Lines of steps ------------------------------------------------------------------------------


def test_lineage_tells_what_a_line_came_by():
    first = found.begin_line(None)
    second = found.begin_line(state_of(300, lineage=first))
    third = found.begin_line(state_of(500, lineage=second))
    other = found.begin_line(state_of(300, lineage=first))
    for step, start in ((100, first), (300, first), (400, second), (500, second), (600, third)):
        assert found.is_on_line(state_of(step, lineage=start), third)
    for step, start in ((400, first), (400, other), (600, second), (100, third)):
        assert not found.is_on_line(state_of(step, lineage=start), third)


def test_checkpoints_of_before_lineages_are_the_beginning_of_the_line():
    line = found.begin_line(state_of(300))
    assert found.is_on_line(state_of(200), line)
    assert not found.is_on_line(state_of(400), line)
    assert not found.is_on_line(state_of(200), found.begin_line(None))


def test_what_lies_beyond_or_on_another_line_is_set_aside_and_can_be_brought_back(folder, caplog):
    caplog.set_level(logging.INFO)
    write_checkpoint(folder.parent, 150, lineage=LEFT)
    kept = folder / "step-00000200"
    assert found.settle_on(kept) == kept
    assert names(folder) == [
        "best", "latest", "step-00000100", "step-00000150.aside-1", "step-00000200",
        "step-00000300.aside-1",
    ]  # fmt: skip
    assert (folder / "latest").read_text() == "step-00000200"
    assert f"{folder}/step-00000300: set aside as step-00000300.aside-1" in caplog.messages
    write_checkpoint(folder.parent, 300, lineage=[*WHOLE, {"id": "d", "step": 200}])
    assert found.settle_on(folder / "step-00000300.aside-1") == folder / "step-00000300"
    assert layout.read_state(folder / "step-00000300")["lineage"] == WHOLE
    other = layout.read_state(folder / "step-00000300.aside-2")
    assert other["lineage"][-1]["id"] == "d"


# ---- What is kept --------------------------------------------------------------------------------


def removed(run, lineage=WHOLE, **keeping):
    old = found.superfluous(run / "checkpoints", lineage, RunConfig(**keeping))
    return [layout.step_of(path) for path in old]


def test_the_last_the_best_and_those_in_between_are_kept(tmp_path):
    for hour, score in enumerate((0.1, 0.6, 0.5, 0.3, 0.4)):
        write_checkpoint(tmp_path, 100 * (hour + 1), score, lineage=WHOLE, time=3600.0 * hour)
    assert removed(tmp_path) == [100, 300]
    assert removed(tmp_path, keep_last=1) == [100, 300, 400]
    assert removed(tmp_path, keep_last=1, keep_best=2) == [100, 400]
    assert removed(tmp_path, keep_last=1, keep_every_steps=300) == [100, 400]
    assert removed(tmp_path, keep_last=1, keep_every_hours=3) == [300]
    assert removed(tmp_path, keep_last=1, best_metric="valid/pearson_raw/ant") == [
        100, 200, 300, 400,
    ]  # fmt: skip


def test_a_removal_that_is_killed_leaves_no_half_checkpoint(run, folder, monkeypatch):
    class Killed(BaseException):
        pass

    def half(going):
        (going / "manifest.json").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(found.shutil, "rmtree", half)
        with pytest.raises(Killed):
            found.remove(folder / "step-00000100")
    assert found.find_best(run) == folder / "step-00000200"
    found.sweep(folder)
    assert names(folder) == ["step-00000200", "step-00000300"]


def test_what_cannot_be_removed_is_said_and_ends_nothing(run, folder, monkeypatch, caplog):
    def refuse(going):
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(found.shutil, "rmtree", refuse)
    assert not found.remove(folder / "step-00000100")
    assert "step-00000100: cannot be removed" in caplog.text


def test_other_lines_and_damaged_ones_are_not_the_runs_to_remove(run, folder):
    assert removed(run, keep_last=1) == [100]
    assert removed(run, AFTER_A_STOP, keep_last=1) == [100]
    assert removed(run, LEFT, keep_last=1) == []
    flip(folder / "step-00000100/spacescale.json")
    assert removed(run, keep_last=1) == []
