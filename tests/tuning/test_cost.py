"""The planned cost of a fine-tuning beside what is counted in one."""

import argparse
import math
import re
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from small_encoders import trunk
from tiny_models import some_codes, tiny_config

from spacescale.cli import build_parser
from spacescale.errors import UserError
from spacescale.finetune import add_options
from spacescale.model.space import Space
from spacescale.planning.machine import named_machine
from spacescale.planning.measure import addresses, counting_kept, flop_counter
from spacescale.tuning.batches import Reader, TrainingOrder
from spacescale.tuning.cost import (
    OF_PRETRAINING,
    cost_lines,
    encoder_tuning_cost,
    longest_fitting,
    plan_tuning,
    tuning_cost,
)
from spacescale.tuning.pretrained import PretrainedEncoder, PretrainedSpace
from spacescale.tuning.sequence_model import SequenceModel, choose_trained
from spacescale.tuning.settings import HEAD_RATE, MIN_STEPS, TuningSettings
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


@pytest.mark.parametrize("gpus", [1, 8])
def test_an_epoch_has_as_many_steps_as_the_batch_of_all_gpus_makes(gpus):
    cost = tuning_cost(tiny_config(), "full", 500, 32, gpus=gpus)
    machine = named_machine("a40", tflops=1e-6)
    line = cost_lines(cost, machine, 3200, PretrainedSpace.rates)[-1]
    assert line.startswith("one epoch of one training, 100 steps over 3,200 sequences: ")
    minutes = 100 * cost.flops / 1e6 / 60
    assert f": {minutes:.2f} minutes; by default a method takes 9 trainings (4 learning" in line


@pytest.mark.parametrize("of, mode, trainings", [
    (PretrainedSpace, "lora", "9 trainings (4 learning rates"),
    (PretrainedSpace, "head", "7 trainings (2 learning rates"),
    (PretrainedEncoder, "full", "8 trainings (3 learning rates"),
    (PretrainedEncoder, "head", "6 trainings (1 learning rate,"),
])  # fmt: skip
def test_how_many_trainings_a_method_takes(of, mode, trainings):
    cost = tuning_cost(tiny_config(), mode, 500, 32)
    assert trainings in cost_lines(cost, named_machine("a40"), 10, of.rates)[-1]
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert parser.get_default("head_lr") == HEAD_RATE
    assert parser.get_default("min_steps") == MIN_STEPS
    assert parser.get_default("epochs") == TuningSettings.epochs


def planned(*options):
    args = build_parser().parse_args(["plan", "--preset", "space_tiny", *options])
    return plan_tuning(args, named_machine("a40"))


@pytest.mark.parametrize("option", OF_PRETRAINING)
def test_options_of_a_pretraining_are_refused(option):
    word = f"--{option.replace('_', '-')}"
    values = {"measure": [], "json": [], "link_gbytes_per_s": ["1", "1"]}.get(option, ["0"])
    message = f"{word}: of a pretraining's plan; --finetune full takes --length, "
    with pytest.raises(UserError, match=re.escape(message)):
        planned("--finetune", "full", word, *values)


def test_a_finetuning_is_planned_with_its_own_options():
    found = planned("--finetune", "full", "--gpus", "2", "--batch", "8", "--sequences", "80")
    assert "4 sequences of 4 bins" in found and "30 steps over 80 sequences" in found


@pytest.mark.parametrize("sequences", [1, 100, 300, 900, 1000, 30_000])
def test_an_epoch_is_planned_with_the_steps_that_training_makes(sequences):
    options = TuningSettings(min_steps=MIN_STEPS)
    least = math.ceil(options.min_steps / options.epochs)
    reader = SimpleNamespace(examples=range(sequences))
    steps = TrainingOrder(cast(Reader, reader), options.batch_size, 0, least_steps=least).steps
    cost = tuning_cost(tiny_config(), "full", 500, options.batch_size)
    line = cost_lines(cost, named_machine("a40"), sequences, PretrainedSpace.rates)[-1]
    assert f"training, {steps:,} steps over {sequences:,} sequences: " in line


def test_features_of_a_frozen_trunk_are_timed_for_a_strand():
    cost = tuning_cost(tiny_config(), "head", 500, 32)
    machine = named_machine("a40", tflops=1e-6)
    line = cost_lines(cost, machine, 3200, PretrainedSpace.rates)[-1]
    minutes = 100 * cost.flops / 1e6 / 60
    assert line.startswith(f"features of 3,200 sequences: {minutes:.2f} minutes for a strand, 3 or")
    assert "epoch" not in line
