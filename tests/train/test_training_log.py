"""What two ranks log of every species, and the end of a run that no longer improves."""

import pytest
from logged_runs import EACH, IN_FIRST, IN_LAST, INTERRUPTED_AT, STOPPED, WHOLE, train_all
from test_elasticity import write_data

from spacescale.checkpoint import layout
from spacescale.evals.status import read_status
from spacescale.metrics.history import read_history, runs
from spacescale.metrics.writer import read_metrics
from spacescale.testing.ranks import run_ranks

pytestmark = pytest.mark.long

SPECIES = ("finch", "moth", "perch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    write_data(folder / "data")
    run_ranks(train_all, 2, folder)
    return folder


def logged(folder, name):
    return {
        r["step"]: r for r in read_metrics(folder / name / "metrics.jsonl") if "train/loss" in r
    }


def added_up(records, species):
    """Windows of a species, and their mean loss."""
    counts = [record[f"train/windows/{species}"] for record in records]
    sums = [n * r[f"train/loss/{species}"] for n, r in zip(counts, records, strict=True) if n]
    return sum(counts), sum(sums) / sum(counts)


def test_a_logged_point_holds_every_species_over_all_steps_since_the_last(folder):
    each, fourth = logged(folder, EACH), logged(folder, STOPPED)
    assert list(fourth) == [1, 4, 8, 10]
    assert any(record["train/windows/perch"] == 0 for record in each.values())
    for steps, found in ((range(2, 5), fourth[4]), (range(5, 9), fourth[8])):
        for species in SPECIES:
            windows, mean = added_up([each[step] for step in steps], species)
            assert found[f"train/windows/{species}"] == windows > 0
            assert found[f"train/loss/{species}"] == pytest.approx(mean, rel=1e-6)
    windows = sum(record[f"train/windows/{s}"] for record in fourth.values() for s in SPECIES)
    assert windows == 10 * 4


def test_what_is_logged_carries_no_weight(folder):
    """The sum has one mean per species, of finch with weight 0 and of moth with 3."""
    for record in logged(folder, EACH).values():
        routing = sum(v for name, v in record.items() if name.endswith(("_mi", "_z", "_cv")))
        weighed = 3 * record["train/loss/moth"] + record.get("train/loss/perch", 0.0)
        assert record["train/loss"] == pytest.approx(weighed + routing, rel=1e-5)
        assert record["train/loss/finch"] > 0


def test_the_gap_is_of_all_windows_since_the_validation_before(folder):
    each = logged(folder, EACH)
    gaps = {
        r["step"]: r["valid/gap/moth"]
        for r in read_metrics(folder / STOPPED / "metrics.jsonl")
        if "valid/gap/moth" in r
    }
    assert 8 in gaps  # resumed at 7
    for step, gap in gaps.items():
        if step <= 8:
            _, mean = added_up([each[step - 1], each[step]], "moth")
            assert gap == pytest.approx(mean - 0.5, rel=1e-5)


def test_patience_is_spent_across_a_resume_and_ends_the_run_as_done(folder):
    ends = [run.end for run in runs(read_history(folder / STOPPED))]
    assert [(end.cause, end.step) for end in ends] == [
        ("stopped", INTERRUPTED_AT), ("done", 8), ("done", 8), ("done", 10),
    ]  # fmt: skip
    said = "valid/pearson_log1p was not better than 0.3 in 2 validations (run.patience=2)"
    assert [end.early_stop for end in ends] == [None, said, said, None]
    assert (folder / EACH / "DONE").read_text() == f"step 8, early stop: {said}\n"
    assert (folder / STOPPED / "DONE").read_text() == "step 10\n"
    status = read_status(folder / EACH)
    assert (status.state, status.cause, status.step) == ("done", said, 8)
    last = folder / EACH / "checkpoints/step-00000008"
    assert layout.read_state(last)["validation_watch"]["not_better"] == 2
    assert (last / "probe.safetensors").exists()


def records_of(folder):
    """Everything that was logged and does not tell time, in order of steps."""
    found = {}
    for record in read_metrics(folder / "metrics.jsonl"):
        kept = {k: v for k, v in record.items() if not k.startswith(("time", "speed/"))}
        found.setdefault(record["step"], {}).update(kept)
    return found


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        (IN_FIRST, [("stopped", 2), ("stopped", 2), ("done", 4)]),
        (IN_LAST, [("stopped", 4), ("done", 4)]),
    ],
)
def test_a_stop_does_not_wait_for_a_validation_which_is_made_up(folder, name, ends):
    whole, stopped = folder / WHOLE, folder / name
    assert [(r.end.cause, r.end.step) for r in runs(read_history(stopped))] == ends
    assert records_of(stopped) == records_of(whole)
    checkpoints = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == checkpoints
    for step in (2, 4):
        place = f"checkpoints/step-{step:08d}"
        one, other = (layout.read_state(f / place) for f in (whole, stopped))
        for key in ("metrics", "best_score", "validation_due", "losses_since_validation"):
            assert one[key] == other[key], key
