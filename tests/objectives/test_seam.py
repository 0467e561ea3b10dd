"""Trainer, engine, checkpoints and status run any objective: here one that knows no SPACE."""

import pytest
from halves import STEPS, STOPPED_AT, blocky_genome, run_all
from small_datasets import write_small_dataset

from spacescale.config import Config
from spacescale.files import read_json
from spacescale.metrics.history import read_history, runs
from spacescale.metrics.writer import read_metrics
from spacescale.objectives import OBJECTIVES, ProfilesObjective, objective_of
from spacescale.testing.ranks import run_ranks

WORLDS = (1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    for seed, name in enumerate(("finch", "moth")):
        write_small_dataset(folder / "data" / name, genome=blocky_genome(seed))
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    """World → what its rank 0 says of export and status."""
    return {world: run_ranks(run_all, world, folder)[0] for world in WORLDS}


def logged(output):
    found = {}
    for record in read_metrics(output / "metrics.jsonl"):
        values = {n: v for n, v in record.items() if not n.startswith(("time", "speed/"))}
        found.setdefault(record["step"], {}).update(values)
    return found


def test_another_objective_trains_and_is_logged_by_its_own_names(ran, folder):
    steps = logged(folder / "whole-1")
    assert list(steps) == [*range(1, STEPS + 1)]
    assert steps[STEPS]["train/loss/finch"] < 0.9 * steps[1]["train/loss/finch"]
    assert steps[STEPS]["valid/agreement"] > 0.9
    assert steps[1]["train/penalty"] > 0
    assert {"valid/agreement/moth", "valid/loss/moth", "valid/gap/moth"} < steps[4].keys()
    names = {name for step in steps.values() for name in step}
    assert not [name for name in names if "poisson" in name or "pearson" in name]


def test_ranks_train_as_one_process_does(ran, folder):
    one, two = (logged(folder / f"whole-{world}") for world in WORLDS)
    for step, values in one.items():
        assert two[step] == pytest.approx(values, rel=1e-4), step


@pytest.mark.parametrize("world", WORLDS)
def test_it_goes_on_where_it_was_stopped(ran, folder, world):
    whole, stopped = (logged(folder / f"{name}-{world}") for name in ("whole", "stopped"))
    ends = [run.end for run in runs(read_history(folder / f"stopped-{world}"))]
    assert [(end.cause, end.step) for end in ends] == [("stopped", STOPPED_AT), ("done", STEPS)]
    assert stopped == whole


@pytest.mark.parametrize("world", WORLDS)
def test_its_export_is_proved_and_carries_what_it_attached(ran, folder, world):
    agreement, _ = ran[world]
    assert agreement.difference < 1e-6 and agreement.choices == 0
    export = folder / f"export-{world}"
    assert read_json(export / "config.json")["kind"] == "halves"
    assert (export / "notes/species.txt").read_text() == "finch\nmoth"
    assert not (export / "tracks").exists()


def test_status_tells_its_score(ran):
    _, status = ran[2]
    assert "agreement of the halves at step 12: finch " in status


def test_profiles_are_what_is_optimised_where_nothing_is_said():
    assert isinstance(objective_of(Config()), ProfilesObjective)
    assert Config.model_validate({"preset": "space_demo"}).objective == "profiles"
    allowed = Config.model_json_schema()["properties"]["objective"]
    assert set(allowed.get("enum", [allowed.get("const")])) == OBJECTIVES.keys()
