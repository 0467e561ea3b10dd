"""Species that are added to trained weights, and parameters that are not trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adding_runs import (
    ADDED,
    FROZEN,
    MORE_RESUMED,
    OLD,
    OWN,
    PARTLY,
    RESUMED,
    RUNS,
    SAVED_AT,
    STEPS,
    train_all,
    write_data,
)

from spacescale.checkpoint.consolidate import load_model
from spacescale.errors import UserError
from spacescale.metrics.writer import read_metrics
from spacescale.overrides import build_config
from spacescale.parallel.freezing import matches
from spacescale.predict.trained_model import load_trained
from spacescale.testing.ranks import run_ranks
from spacescale.train.only_new import (
    hashes_of_predictions,
    require_unchanged,
    weights_to_keep,
    with_shape_of,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adding")
    write_data(folder / "data")
    run_ranks(train_all, 2, folder, RUNS)
    return folder


@pytest.fixture(scope="module")
def more_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adding-more")
    write_data(folder / "data")
    run_ranks(train_all, 2, folder, [OLD, *ADDED, *OWN, *PARTLY, *MORE_RESUMED])
    return folder


@pytest.fixture
def folder_of(request):
    """Where a run lies, trained when first asked for."""
    return lambda run: request.getfixturevalue("runs" if run in RUNS else "more_runs")


def each(runs):
    """Those that are not of the default tests are slow."""
    marks = {True: [], False: [pytest.mark.slow]}
    return [pytest.param(run, id=run.name, marks=marks[run in RUNS]) for run in runs]


@pytest.fixture
def old(runs):
    return load_trained(checkpoint(runs / "old"))


@pytest.fixture
def added(runs):
    return load_trained(checkpoint(runs / ADDED[1].name))


def checkpoint(run: Path, step: int = STEPS) -> Path:
    return run / f"checkpoints/step-{step:08d}"


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_model(checkpoint(run, step))[0].state_dict()


def losses(run: Path) -> list[float]:
    logged = read_metrics(run / "metrics.jsonl")
    return [r["train/loss"] for r in logged if "train/loss" in r and r["step"] > SAVED_AT]


TRAINED = {
    "species_token.weight",
    "transformer.0.moe.router.weight",
    "transformer.0.moe.router.bias",
    "heads.perch.weight",
    "heads.perch.bias",
    "decoder.from_sequence.weight",
    "decoder.from_sequence.bias",
    "decoder.from_species.weight",
    "decoder.from_species.bias",
    "decoder.gates.weight",
    "decoder.gates.bias",
    "decoder.type_embedding",
}
OWN_TRAINED = {f"transformer.0.moe.mixture.experts.{name}" for name in ("w1", "w2", "w3")}


@pytest.mark.long
@pytest.mark.parametrize("run", each([*ADDED, *OWN]))
def test_old_species_get_the_same_bits_and_new_ones_learn(folder_of, run):
    folder = folder_of(run)
    first, last = weights(folder / run.name, SAVED_AT), weights(folder / run.name)
    old, new = load_trained(folder / "old"), load_trained(folder / run.name)
    assert list(new.model.species) == ["finch", "moth", "perch"]
    assert new.tracks["finch"] == old.tracks["finch"]
    assert new.data_manifests["moth"] == old.data_manifests["moth"]
    codes = torch.randint(0, 4, (3, 192), generator=torch.Generator().manual_seed(3)).byte()
    with torch.no_grad():
        for name in old.model.species:
            before, after = (m.model({name: codes}).prediction[name] for m in (old, new))
            assert torch.equal(before, after)
    moved = {key for key in last if not torch.equal(first[key], last[key])}
    assert moved == (TRAINED | OWN_TRAINED if run in OWN else TRAINED)
    assert torch.equal(last["species_token.weight"][:2], old.model.species_token.weight)


@pytest.mark.parametrize("run", each(OWN))
def test_own_experts_are_trained_and_shared_ones_stay(folder_of, run):
    folder = folder_of(run)
    old, last = weights(folder / "old"), weights(folder / run.name)
    config = load_trained(checkpoint(folder / run.name)).model.config
    assert config.own_experts == {"perch": 2} and config.species_num_experts == 6
    for key in OWN_TRAINED:
        assert torch.equal(last[key][:4], old[key]), key
        assert not torch.equal(last[key][4:], old[key][:2]), key
    router = last["transformer.0.moe.router.weight"]
    assert not torch.equal(router[2, 4:], router[2, :2])


@pytest.mark.parametrize("run", each(PARTLY))
def test_what_is_frozen_stays_and_the_rest_is_trained(folder_of, run):
    folder = folder_of(run)
    first, last = weights(folder / run.name, SAVED_AT), weights(folder / run.name)
    assert any("running_mean" in key and key.startswith("stem") for key in last)
    for key, tensor in last.items():
        frozen = any(matches(key, pattern) for pattern in FROZEN)
        assert torch.equal(tensor, first[key]) == frozen, key


@pytest.mark.parametrize("run", each([*RESUMED, *MORE_RESUMED]))
def test_a_run_with_frozen_parameters_goes_on_as_if_never_stopped(folder_of, run):
    runs = folder_of(run)
    whole, resumed = losses(runs / run.origin), losses(runs / run.name)
    assert len(whole) == STEPS - SAVED_AT
    if run.name == f"{run.origin}-as-{run.origin}":  # laid out the same
        assert resumed == whole
        last, again = weights(runs / run.origin), weights(runs / run.name)
        assert all(torch.equal(last[key], again[key]) for key in last)
    assert resumed == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    "key, row",
    [
        ("stem.1.block.0.running_mean", 0),
        ("transformer.0.moe.mixture.experts.w1", 3),
        ("transformer.0.moe.router.bias", (1, 3)),
        ("heads.moth.bias", 1),
        ("decoder.gates.weight", -1),  # of the old assay, the second
        ("species_token.weight", 1),
    ],
)
def test_any_change_of_what_old_species_rest_on_is_refused(old, added, key, row):
    assert set(require_unchanged(old, added)) == {"finch", "moth"}
    with torch.no_grad():
        added.model.state_dict()[key][row] += 1e-6
    with pytest.raises(UserError, match=r"was to stay as it is, but 1 of its tensors changed"):
        require_unchanged(old, added)


def test_another_prediction_from_the_same_weights_is_refused(old, added):
    added.model.stem[2].register_forward_hook(lambda module, args, out: out * (1 + 1e-6))
    with pytest.raises(UserError, match="predicts of finch was to stay as it is: sha256 of"):
        require_unchanged(old, added)


def test_hashes_tell_species_apart_and_leave_the_threads_as_they_were(old):
    threads = torch.get_num_threads()
    found = hashes_of_predictions(old.model, ["finch", "moth"])
    assert found == hashes_of_predictions(old.model, ["finch", "moth"])
    assert found["finch"] != found["moth"] and torch.get_num_threads() == threads


def test_settings_that_the_old_model_overrules_are_named(old, caplog):
    same = {f"model.{name}={getattr(old.model.config, name)}" for name in ("dim", "depth")}
    scale = f"loss.track_scale={old.scale_name}"
    config = build_config("space_demo", [scale, *same, "model.heads=8", "model.dropout=0.3"])
    assert with_shape_of(old, config, ["perch"]).model.dropout == 0.3
    assert f"heads={old.model.config.heads} (not 8)" in caplog.text
    assert " dim=" not in caplog.text and "dropout" not in caplog.text


def test_what_cannot_be_added_is_refused(old):
    config = build_config("space_demo", ["loss.track_scale=mean"])
    with pytest.raises(UserError, match=r"--data: .* knows moth already.*new species alone"):
        with_shape_of(old, config, ["perch", "moth"])
    with pytest.raises(UserError, match=r"loss.track_scale=mean: .* predicts .* set loss.track_s"):
        with_shape_of(replace(old, scale_name="log1p"), config, ["perch"])
    only_new = build_config("space_demo", ["optim.only_new=true"]).optim
    with pytest.raises(UserError, match=r"--only-new\): name the weights that stay, with --init"):
        weights_to_keep(only_new, None)
    assert weights_to_keep(config.optim, Path("anything")) is None
