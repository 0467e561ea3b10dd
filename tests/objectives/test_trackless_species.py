"""Species without tracks beside others: what they train, what is said of them, what is refused."""

import math

import numpy as np
import pytest
import torch
from hybrid_runs import HYBRID, STEPS, STOPPED_AT
from test_hybrid_objective import logged
from trackless_runs import one_process, two_processes, write_inputs

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.released import convert_to_released
from spacescale.contamination.seen import read_training
from spacescale.dataset.loader import open_mixed
from spacescale.errors import UserError
from spacescale.evals.evaluation import Options, evaluate
from spacescale.evals.info import describe
from spacescale.evals.status import as_text, read_status
from spacescale.files import read_json
from spacescale.model import Space
from spacescale.model.hybrid import HybridSpace
from spacescale.objectives import objective_of
from spacescale.overrides import build_config
from spacescale.planning.species import with_species
from spacescale.predict.predictor import Predictor
from spacescale.predict.trained_model import load_trained
from spacescale.testing.ranks import run_ranks
from spacescale.train.initial_weights import start_from

LN_4 = math.log(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trackless")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def agreements(folder):
    (found,) = run_ranks(one_process, 1, folder)
    return found


def test_its_windows_train_bases_and_its_loss_is_theirs(folder, agreements):
    steps = logged(folder / "both")
    windows = [(values["train/windows/wren"], values["train/windows/finch"]) for values in
               steps.values()]  # fmt: skip
    assert windows == [(2, 2)] * 3 + [(1, 3)] * 3
    assert steps[1]["train/loss/wren"] == pytest.approx(LN_4, abs=1e-5)
    last = steps[STEPS]
    assert last["train/loss/wren"] != pytest.approx(LN_4, abs=1e-4)
    assert last["valid/loss/wren"] == last["valid/bases/cross_entropy/wren"] != LN_4
    assert "valid/pearson_log1p/finch" in last and "valid/pearson_log1p/wren" not in last
    assert [name for name in last if name.startswith("valid/gap")] == ["valid/gap/finch"]
    assert not [name for name in steps[3] if name.startswith("valid/gap")]  # of bases alone
    assert last["valid/pearson_log1p"] == last["valid/pearson_log1p/finch"]
    of_species = [last[f"valid/bases/cross_entropy/{name}"] for name in ("finch", "wren")]
    assert last["valid/bases/perplexity"] == pytest.approx(math.exp(np.mean(of_species)))
    model = load_trained(folder / "both").model
    assert dict(model.config.species) == {"wren": (), "finch": ("dnase_atac",) * 3}
    assert list(model.heads) == ["finch"] and len(model.species_token.weight) == 2


def test_the_best_checkpoint_is_that_of_the_lowest_perplexity(folder, agreements):
    steps = logged(folder / "both")
    found = {step: steps[step]["valid/bases/perplexity"] for step in (3, STEPS)}
    best = find_best(folder / "both")
    assert layout.read_state(best)["best_score"] == min(found.values())
    assert layout.read_state(best)["step"] == min(found, key=found.get)


def test_it_goes_on_exactly_where_it_was_stopped(folder, agreements):
    assert repr(logged(folder / "halted")) == repr(logged(folder / "both"))


@pytest.mark.long
def test_two_processes_train_as_one_does(folder, agreements):
    run_ranks(two_processes, 2, folder)
    one = logged(folder / "pairs-1")
    assert [values["train/windows/wren"] for values in one.values()] == [3] * STEPS
    for zero in (2, 3):
        two = logged(folder / f"pairs-2-zero{zero}")
        for step, values in one.items():
            assert two[step] == pytest.approx(values, rel=2e-3, abs=2e-5), (zero, step)


def test_an_export_is_space_with_features_of_it_and_no_tracks(folder, agreements):
    assert [agreement.difference < 1e-6 for agreement in agreements] == [True, True]
    plain, whole = (Space.from_pretrained(folder / name) for name in ("for_use", "whole"))
    assert type(plain) is Space and type(whole) is HybridSpace
    codes = torch.randint(0, 4, (1, 192), dtype=torch.uint8)
    one, other = (m({"finch": codes}).prediction["finch"] for m in (plain, whole))
    assert torch.equal(one, other)
    assert torch.equal(plain.embed(codes, "wren"), whole.embed(codes, "wren"))
    assert not torch.equal(plain.embed(codes, "wren"), plain.embed(codes, "finch"))
    with pytest.raises(UserError, match=r"species 'wren' of .*for_use has no tracks"):
        Predictor.load(folder / "for_use", "wren", "cpu").predict(codes.numpy())
    with pytest.raises(UserError, match="wren without tracks: the released layout"):
        convert_to_released(folder / "for_use", folder / "none")


def test_a_run_with_it_begins_with_weights_that_know_it(folder, agreements):
    objective = objective_of(build_config("space_demo", HYBRID))
    config = objective.complete(objective.open([folder / "data"]))
    model, old = objective_of(config).build(), load_trained(folder / "for_use")
    taken = start_from(model, {"finch": old.tracks["finch"]}, old)
    assert taken.fresh == ["bases_head", "mask_code"] and not taken.left_over
    weights = model.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in old.model.state_dict().items())


def test_an_evaluation_tells_its_perplexity_beside_the_scores_of_others(folder, agreements):
    text = evaluate(folder / "both", [], folder / "scores", Options(split="test"))
    assert "wren, test: " in text and "finch, test: " in text
    scores = read_json(folder / "scores/bases.json")
    assert list(scores) == ["wren", "finch"]
    assert scores["wren"]["model"]["bases"] == scores["wren"]["counts"]["bases"] > 100
    assert scores["wren"]["model"]["perplexity"] == pytest.approx(4, abs=0.4)
    assert list(read_json(folder / "scores/metrics.json")["species"]) == ["finch"]
    alone = evaluate(folder / "whole", [folder / "data/a_wren"], folder / "alone")
    assert alone.startswith("wren, test: ")
    with pytest.raises(UserError, match=r"wren.* has no tracks"):
        evaluate(folder / "for_use", [folder / "data/a_wren"], folder / "none")


def test_others_tell_what_it_is(folder, agreements):
    assert "wren         no tracks" in describe(folder / "for_use")
    assert "wren" in as_text(read_status(folder / "both"))
    planned = with_species(build_config("space_demo", HYBRID), [folder / "data"])
    assert planned.space.species == load_trained(folder / "both").model.config.species
    with pytest.raises(UserError, match="species without tracks"):
        read_training(folder / "both")


def test_where_no_species_has_tracks_it_is_refused(folder):
    with pytest.raises(UserError, match=r"no species has tracks \(wren\).*objective=tokens"):
        open_mixed([folder / "data/a_wren"])


def test_a_species_that_would_never_be_read_is_refused(folder):
    settings = [*HYBRID, "bases.schedule=joint", "bases.trackless_share=0"]
    objective = objective_of(build_config("space_demo", settings))
    with pytest.raises(UserError, match=r"bases\.trackless_share=0.*of wren"):
        objective.complete(objective.open([folder / "data"]))


def test_a_weight_of_profiles_of_a_species_without_tracks_is_refused(folder):
    settings = [*HYBRID, 'loss.species_weight={"wren": 2, "finch": 2}']
    objective = objective_of(build_config("space_demo", settings))
    with pytest.raises(UserError, match=r"loss\.species_weight names wren, without tracks"):
        objective.complete(objective.open([folder / "data"]))


def test_more_steps_do_not_move_what_is_read(folder):
    read = []
    for steps in (STEPS, 3 * STEPS):
        settings = [*HYBRID, f"optim.max_steps={steps}", "bases.first_steps=2"]
        objective = objective_of(build_config("space_demo", settings))
        data = objective.open([folder / "data"])
        windows = objective_of(objective.complete(data)).windows(data, 4, 0, 1, 1)
        masked = [len(windows[step]["finch"].hidden.windows) for step in range(STEPS)]
        read.append((masked, [windows.order.windows_by_species(step) for step in range(STEPS)]))
    assert read[0] == read[1]


def test_after_bases_alone_it_is_not_read_where_profiles_are_alone(folder):
    settings = [*HYBRID, "bases.schedule=first", "bases.first_share=0.5"]
    objective = objective_of(build_config("space_demo", settings))
    data = objective.open([folder / "data"])
    objective = objective_of(objective.complete(data))
    order = objective.windows(data, 4, 0, 1, 1).order
    assert [order.windows_by_species(step).get("wren", 0) for step in range(STEPS)] == [2] * 3 + [
        0
    ] * (STEPS - STOPPED_AT)
