"""The planned cost of a fine-tuning beside what is counted in one."""

import numpy as np
import pytest
from small_encoders import trunk
from tiny_models import some_codes, tiny_config

from spacescale.errors import UserError
from spacescale.model.space import Space
from spacescale.planning.measure import addresses, counting_kept, flop_counter
from spacescale.tuning.cost import encoder_tuning_cost, longest_fitting, tuning_cost
from spacescale.tuning.sequence_model import SequenceModel, choose_trained
from spacescale.tuning.space_trunk import SpaceTrunk

MODES = ("full", "lora", "head")


def small_model(mode, experts=4):
    config = tiny_config(
        species_num_experts=experts, dim=96, stem_dim=48, dropout=0.1, dilated_convs=1, depth=3
    )
    model = SequenceModel(SpaceTrunk(Space(config), "finch"), 2)
    choose_trained(model, mode, 4, False)
    return config, model.train()


def work_of(model, rows):
    """Operations of a step, and bytes kept for its backward pass."""
    kept = {}
    with flop_counter() as forward, counting_kept(kept, addresses(model)):
        loss = model([rows]).square().sum()
    with flop_counter() as backward:
        loss.backward()
    return forward.get_total_flops() + backward.get_total_flops(), sum(kept.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("experts", [4, 0])
def test_parameters_are_those_of_the_model(mode, experts):
    if mode == "lora":
        pytest.importorskip("peft")
    config, model = small_model(mode, experts)
    cost = tuning_cost(config, mode, 500, 32, lora_rank=4)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert cost.optimiser == 12 * cost.trained


@pytest.mark.parametrize("mode", MODES)
def test_work_and_memory_are_within_a_tenth_of_what_is_counted(mode):
    if mode == "lora":
        pytest.importorskip("peft")
    config, model = small_model(mode)
    cost = tuning_cost(config, mode, 480, 8, lora_rank=4, on_gpu=False)
    done, kept = work_of(model, some_codes(8, 480))
    assert cost.flops == pytest.approx(done, rel=0.1)
    if mode == "head":
        full = tuning_cost(config, "full", 480, 8, on_gpu=False)
        assert kept < 1e5 and 0 < cost.activations < full.activations / 2
    else:
        assert cost.activations == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_an_encoder_takes_what_is_planned(mode):
    if mode == "lora":
        pytest.importorskip("peft")
    below = trunk("kmer", dropout=0.1, dim=96, depth=3, heads=4, ffn_dim=192)
    model = SequenceModel(below, 2)
    choose_trained(model, mode, 4, False)
    cost = encoder_tuning_cost(below.module.config, "kmer", mode, 200, 8, 4, on_gpu=False)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    sequences = list(np.random.default_rng(0).integers(0, 4, (8, 200), dtype=np.uint8))
    done, kept = work_of(model.train(), below.encoding({200}, False).tensor(sequences, 0))
    assert cost.flops == pytest.approx(done, rel=0.1)
    if mode == "head":
        assert kept < 1e5 < cost.activations
    else:
        assert cost.activations == pytest.approx(kept, rel=0.1)


def test_the_longest_sequence_that_fits():
    def needed(length):
        return tuning_cost(tiny_config(), "head", length, 1).total

    fits = longest_fitting(needed, needed(800), 8, 4096)
    assert fits == 800 and longest_fitting(needed, needed(800) - 1, 8, 4096) == 792
    assert longest_fitting(needed, 10, 8, 4096) == 0


def test_gpus_share_the_batch_and_the_optimiser():
    config = tiny_config()
    one, four = (tuning_cost(config, "full", 500, 30, gpus=gpus) for gpus in (1, 4))
    assert four.sequences == 8 and four.optimiser == one.optimiser / 4
    assert four.weights == one.weights
    with pytest.raises(UserError, match="--batch 3: 4 GPUs need as many sequences"):
        tuning_cost(config, "full", 500, 3, gpus=4)
