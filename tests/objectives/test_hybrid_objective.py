"""Runs that hide bases: what they leave as it was, what they resume, log and export."""

import math
from dataclasses import replace

import pytest
import torch
from hybrid_runs import (
    BORDER,
    ENDED_AT,
    HYBRID,
    STEPS,
    STOPPED_AT,
    one_process,
    two_processes,
)
from small_datasets import write_small_dataset

from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.layout import read_state, step_name
from spacescale.checkpoint.released import convert_to_released
from spacescale.contamination.seen import read_training
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.evaluation import Options, evaluate
from spacescale.files import read_json
from spacescale.hub.export import convert_for_hub
from spacescale.metrics.history import read_history, runs
from spacescale.metrics.writer import read_metrics
from spacescale.model import Space
from spacescale.model.hybrid import OWN, HybridSpace
from spacescale.objectives import HybridObjective, objective_of
from spacescale.overrides import build_config
from spacescale.predict.trained_model import load_trained
from spacescale.testing.ranks import run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    for name in ("finch", "moth"):
        write_small_dataset(folder / "data" / name)
    return folder


@pytest.fixture(scope="module")
def agreements(folder):
    (found,) = run_ranks(one_process, 1, folder)
    return found


def logged(output):
    """step → what was logged, without what is of the clock."""
    found = {}
    for record in read_metrics(output / "metrics.jsonl"):
        values = {n: v for n, v in record.items() if not n.startswith(("time", "speed/"))}
        found.setdefault(record["step"], {}).update(values)
    return found


def test_with_nothing_hidden_and_no_weight_it_is_profiles_bit_for_bit(folder, agreements):
    plain, off = logged(folder / "profiles"), logged(folder / "off")
    assert list(plain) == [*range(1, STEPS + 1)]
    for step, values in plain.items():
        assert {name: off[step][name] for name in values} == values, step
        assert off[step]["train/bases"] == 0
    weights, others = (load_trained(folder / n).model.state_dict() for n in ("profiles", "off"))
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def test_a_run_goes_on_exactly_where_it_was_stopped(folder, agreements):
    ends = [run.end for run in runs(read_history(folder / "stopped"))]
    assert [(end.cause, end.step) for end in ends] == [("stopped", STOPPED_AT), ("done", STEPS)]
    whole = logged(folder / "joint")
    assert repr(logged(folder / "stopped")) == repr(whole)  # NaN is not equal to itself
    assert whole[1]["train/bases"] == pytest.approx(math.log(4), abs=1e-5)  # alone, at first
    assert 0 < whole[STEPS]["train/bases"] < 0.2


def test_validation_scores_hidden_bases_by_species(folder, agreements):
    scores = logged(folder / "joint")[STEPS]
    for name in ("finch", "moth"):
        loss = scores[f"valid/bases/cross_entropy/{name}"]
        assert loss == pytest.approx(math.log(4), abs=0.1) and loss != math.log(4)
        assert scores[f"valid/bases/perplexity/{name}"] == pytest.approx(math.exp(loss))
        assert 0 < scores[f"valid/bases/accuracy/{name}"] < 1
        for prefix in ("valid_experts", "valid_experts_masked"):
            shares = [v for n, v in scores.items() if n.startswith(f"{prefix}/{name}/block0/")]
            assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    state = read_json(next((folder / "joint/checkpoints").glob("step-*6")) / "spacescale.json")
    assert not [name for name in state["metrics"] if "experts" in name]


def test_bases_first_then_profiles_with_a_slow_trunk(folder, agreements):
    steps, plain = logged(folder / "first"), logged(folder / "profiles")
    assert [steps[step]["train/bases"] > 0 for step in steps] == [True] * 3 + [False] * 3
    rate = "optim/learning_rate"
    found = [values[rate] / plain[step][rate] for step, values in steps.items()]
    assert found == pytest.approx([1, 1, 1, 0.2, 0.2, 0.2])
    config = read_json(folder / "first/config.json")["spacescale"]
    assert config["optim"]["lr_factors"] == {"heads": 5.0, "decoder": 5.0}
    assert steps[1]["train/decoder_z"] == 0 and steps[STEPS]["train/decoder_z"] > 0


@pytest.mark.parametrize("name", ["patient", "patient_stopped", "patient_old"])
def test_what_is_not_trained_yet_neither_is_the_best_nor_ends_the_run(folder, agreements, name):
    end = runs(read_history(folder / name))[-1].end
    assert (end.cause, end.step) == ("done", ENDED_AT)
    assert end.early_stop.startswith("valid/pearson_log1p was not better than 0.2 in 1 validations")
    best = find_best(folder / name)
    assert best.name == step_name(BORDER + 1)
    last = read_state(best.with_name(step_name(ENDED_AT)))
    assert last["config"]["bases"]["first_steps"] == BORDER
    whole = read_state(folder / "patient/checkpoints" / step_name(ENDED_AT))
    for key in ("metrics", "best_score", "validation_watch", "step_watch"):
        assert last[key] == whole[key], key
    assert len(last["step_watch"]["spikes"]["loss"]) == ENDED_AT - BORDER
    assert repr(logged(folder / name)) == repr(logged(folder / "patient"))
    assert logged(folder / name)[1]["valid/pearson_log1p"] == 0.9  # said, but not kept


@pytest.mark.parametrize(
    ("schedule", "first", "then"),
    [("first+joint", "bases", "both"), ("first", "bases", "profiles"), ("joint", "both", "both")],
)
def test_each_phase_has_its_scores(schedule, first, then):
    steps = ["optim.max_steps=30", "optim.warmup_steps=0"]
    words = ["objective=profiles+bases", f"bases.schedule={schedule}", *steps]
    config = build_config("space_tiny", words)
    model = config.space.model_copy(update={"species": {"finch": ("CAGE",), "wren": ()}})
    objective = HybridObjective(config.model_copy(update={"model": model}))
    of_profiles = ["valid/pearson_log1p", "valid/loss", "valid/loss/finch"]
    of_bases = ["valid/bases/perplexity", "valid/bases/accuracy/finch", "valid/loss/wren"]
    for step, trained in ((9, first), (10, then)):
        assert {objective.trains(score, step) for score in of_bases} == {trained != "profiles"}
        assert {objective.trains(score, step) for score in of_profiles} == {trained != "bases"}
    begins = [step for step in range(30) if objective.begins_phase(step)]
    assert begins == ([] if schedule == "joint" else [10])


@pytest.mark.parametrize("schedule", ["joint", "first+joint", "first"])
def test_the_rate_warms_up_again_when_profiles_begin(schedule):
    steps = ["optim.max_steps=30", "optim.warmup_steps=4"]
    words = ["objective=profiles+bases", f"bases.schedule={schedule}", *steps]
    objective = HybridObjective(build_config("space_tiny", words))
    factors = [objective.rate_factor(step) for step in range(30)]
    last = 0.2 if schedule == "first" else 1.0
    assert factors[:10] == [1.0] * 10 and factors[13:] == [last] * 17
    if schedule != "joint":
        assert factors[10:13] == pytest.approx([last * part for part in (0.25, 0.5, 0.75)])


def test_a_hybrid_begins_as_the_profiles_that_it_is_given(folder, agreements):
    given, found = (load_trained(folder / n).model for n in ("profiles", "from_profiles"))
    assert isinstance(found, HybridSpace) and not isinstance(given, HybridSpace)
    first = logged(folder / "from_profiles")[1]["train/loss"]
    assert first != logged(folder / "off")[1]["train/loss"]
    text = str(runs(read_history(folder / "from_profiles")))
    assert "done" in text


def test_an_export_is_spaces_unless_all_is_asked_for(folder, agreements):
    assert [agreement.difference < 1e-6 for agreement in agreements] == [True, True]
    plain, whole = (Space.from_pretrained(folder / name) for name in ("for_use", "whole"))
    assert type(plain) is Space and type(whole) is HybridSpace
    assert not [name for name in plain.state_dict() if name.startswith(OWN)]
    assert "bases" not in read_json(folder / "for_use/config.json")
    codes = torch.randint(0, 4, (1, 192), dtype=torch.uint8)
    for name in ("finch", "moth"):
        one, other = (m({name: codes}).prediction[name] for m in (plain, whole))
        assert torch.equal(one, other)
    with pytest.raises(UserError, match="has nothing that serves training alone"):
        convert(folder / "profiles", folder / "none", whole=True)
    for converter in (convert_for_hub, convert_to_released):
        with pytest.raises(UserError, match="whole: holds the head of hidden bases"):
            converter(folder / "whole", folder / "none")
    assert not (folder / "none").exists()


def test_an_evaluation_tells_perplexity_beside_counts(folder, agreements):
    text = evaluate(folder / "joint", [], folder / "scores", Options(split="test"))
    assert "finch, test: " in text and "hidden bases, perplexity " in text
    scores = read_json(folder / "scores/bases.json")["moth"]
    assert scores["model"]["bases"] == scores["counts"]["bases"] > 100
    assert scores["model"]["perplexity"] == pytest.approx(4, abs=0.4)


@pytest.mark.long
def test_two_processes_train_as_one_does(folder, agreements):
    run_ranks(two_processes, 2, folder)
    one = logged(folder / "few-1")
    assert any(values["train/bases"] > 0 for values in one.values())
    for layout in ("zero2", "zero3", "experts"):
        two = logged(folder / f"few-2-{layout}")
        for step, values in one.items():
            assert two[step] == pytest.approx(values, rel=2e-3, abs=2e-5), (layout, step)


def test_what_bases_anywhere_were_seen_is_not_claimed_to_be_known(folder, agreements):
    for name in ("joint", "for_use", "whole"):
        with pytest.raises(UserError, match=r"trained on bases anywhere .*bases\.untracked"):
            read_training(folder / name)
    assert read_training(folder / "few-1").windows_read == 4 * STEPS


def test_only_new_species_are_trained_by_profiles_alone():
    config = build_config("space_demo", ["objective=profiles+bases", "optim.only_new=true"])
    with pytest.raises(UserError, match=r"optim\.only_new .*take objective=profiles"):
        objective_of(config).complete({})


def first_losses(data, *settings, change=lambda part: part):
    """Losses of the first micro-step of a fresh model in evaluation mode, without gradients."""
    config = build_config("space_demo", [*HYBRID, "bases.schedule=joint", *settings])
    objective = objective_of(HybridObjective(config).complete(data))
    objective.begin(data, torch.device("cpu"))
    torch.manual_seed(0)
    model = objective.build().eval()
    batch = objective.windows(data, 8, 0, 1, 1)[0]
    assert 0 < len(batch["finch"].hidden.windows) < 8
    with torch.no_grad():
        return objective.losses(model, {"finch": change(batch["finch"])}, lambda x: x, 0)


@pytest.fixture
def finch(tmp_path):
    return {"finch": SpeciesData.open(write_small_dataset(tmp_path / "finch"))}


def test_masked_windows_may_weigh_less_in_the_profiles(finch):
    found = {}
    for weight in (1.0, 0.25, 0.0):
        losses = first_losses(finch, f"bases.masked_profile_weight={weight}")
        found[weight] = float(losses.of_species["finch"].mean)
    assert found[0.25] == pytest.approx(0.25 * found[1] + 0.75 * found[0])
    assert found[0.0] < found[1.0]


def test_bases_in_repeats_weigh_less(finch):
    def all_repeats(part):
        in_repeats = torch.ones_like(part.hidden.in_repeats)
        return replace(part, hidden=replace(part.hidden, in_repeats=in_repeats))

    plain = float(first_losses(finch).terms["bases"])
    found = float(first_losses(finch, change=all_repeats).terms["bases"])
    assert plain == pytest.approx(0.1 * math.log(4)) and found == pytest.approx(0.1 * plain)
    losses = first_losses(finch, "bases.repeat_weight=0.5", change=all_repeats)
    assert float(losses.terms["bases"]) == pytest.approx(0.5 * plain)
