"""A species that the weights do not know: what adapters alone would leave as it began."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_tasks import motif_task
from tiny_models import tiny_model

from spacescale.parallel.engine import init_distributed, resolve_deepspeed_config
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.fit import answers, fit, readers_of
from spacescale.tuning.pretrained import PretrainedSpace
from spacescale.tuning.rows import Rows
from spacescale.tuning.run import Plan, TaskRun, methods
from spacescale.tuning.sequence_model import SequenceModel, choose_trained
from spacescale.tuning.settings import TuningSettings
from spacescale.tuning.suite import DEEPSPEED
from spacescale.tuning.tuned_model import load_tuned, save_tuned

CPU = torch.device("cpu")
LORA = TuningSettings(mode="lora", lr=3e-2, epochs=1, batch_size=8, lora_rank=2, weight_decay=0.1)
NEW = PretrainedSpace("tiny", tiny_model(), "digest", "crow", "finch")
KNOWN = replace(NEW, species="finch", like=None)
TOKEN, ROUTER = "space.species_token.weight", "space.transformer.{}.moe.router.{}"
OF_SPECIES = [TOKEN, *(ROUTER.format(i, name) for i in (0, 1) for name in ("weight", "bias"))]


@pytest.fixture(scope="module", autouse=True)
def process_group():
    pytest.importorskip("peft")
    init_distributed()


def test_its_token_and_gates_learn_beside_adapters_and_are_kept(tmp_path):
    task = motif_task(sizes=(32, 8, 8))
    model = SequenceModel(NEW.trunk("pretrained", LORA), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    readers = readers_of(task, model, LORA, CPU)
    config = resolve_deepspeed_config(DEEPSPEED, "a test", LORA.batch_size)
    fit(model, task, readers, LORA, config, CPU)
    after = model.state_dict()
    for name in OF_SPECIES:
        assert torch.equal(after[name][:-1], before[name][:-1])  # of the other species
        assert not torch.equal(after[name][-1], before[name][-1]), name

    criterion = Criterion.of(task, False)
    found = answers(model, readers["test"], criterion, False, CPU)
    save_tuned(tmp_path / "kept", model, criterion, readers["test"].encoding, task, False, {})
    kept = load_tuned(tmp_path / "kept")
    np.testing.assert_allclose(kept.answers(task.splits["test"].codes), found, atol=1e-5)
    assert torch.equal(kept.model.state_dict()[TOKEN], after[TOKEN])


def test_only_its_own_rows_count_as_trained():
    known, new = (SequenceModel(one.trunk("pretrained", LORA), 2) for one in (KNOWN, NEW))
    for model in (known, new):
        choose_trained(model, "lora", 2, False)
    dim, experts, depth = 48, 4, 2
    assert new.num_trained - known.num_trained == dim + depth * experts * (dim + 1)
    assert not known.taught and new.taught == set(OF_SPECIES)


@pytest.mark.parametrize("pretrained, mode, learnt", [
    (NEW, "lora", True), (NEW, "full", True), (KNOWN, "lora", False),
])  # fmt: skip
def test_rows_made_before_it_had_a_rate_are_made_again(pretrained, mode, learnt, tmp_path):
    """Rows of known species, and of fresh weights, hold: they are told apart by the same facts."""
    settings = replace(LORA, mode=mode)
    plan = Plan(pretrained, settings, (1e-3,), ("one",), (0,), ("scratch",))
    run = TaskRun(motif_task(sizes=(8, 4, 4)), plan, Rows(tmp_path), {}, CPU)
    tuned, scratch = (run._facts(method, 100.0, 0) for method in methods(plan))
    assert ("species_lr" in tuned, "species_lr" in scratch) == (learnt, False)
    assert "species_lr" not in tuned["settings"]


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("given, rate", [(None, 2e-3), (0.1, 0.1)])
def test_its_token_and_gates_have_a_rate_of_their_own(mode, given, rate, monkeypatch):
    """By default that of the head; Adam's first step is as long as the rate."""
    settings = replace(LORA, mode=mode, lr=1e-4, head_lr=2e-3, species_lr=given, batch_size=16)
    settings = replace(settings, warmup=0.0, weight_decay=0.0)
    monkeypatch.setattr("spacescale.tuning.fit.learning_rate", lambda step, optim: optim.lr)
    task, model = motif_task(sizes=(16, 8, 8)), SequenceModel(NEW.trunk("pretrained", settings), 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = resolve_deepspeed_config(DEEPSPEED, "a test", settings.batch_size)
    fit(model, task, readers_of(task, model, settings, CPU), settings, config, CPU)
    after = model.state_dict()
    expected = dict.fromkeys(OF_SPECIES, rate) | {"head.weight": 2e-3}
    if mode == "full":
        expected["space.transformer.0.attention.to_v.weight"] = 1e-4
    for name, step in expected.items():
        moved = float((after[name] - before[name]).abs().max())
        assert moved == pytest.approx(step, rel=0.02), name


def test_of_fresh_weights_no_species_is_newer_than_the_rest():
    assert NEW.trunk("pretrained", LORA).taught and not NEW.trunk("random", LORA).taught
