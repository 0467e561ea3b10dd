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


@pytest.mark.parametrize("pretrained, mode, taught", [
    (NEW, "lora", True), (NEW, "full", False), (KNOWN, "lora", False),
])  # fmt: skip
def test_rows_made_before_it_learnt_are_made_again(pretrained, mode, taught, tmp_path):
    settings = replace(LORA, mode=mode)
    plan = Plan(pretrained, settings, (1e-3,), ("one",), (0,), ())
    run = TaskRun(motif_task(sizes=(8, 4, 4)), plan, Rows(tmp_path), {}, CPU)
    assert run._facts(methods(plan)[0]).get("taught", False) == taught
