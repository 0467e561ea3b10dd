"""What a fine-tuning costs: trained parameters, memory of a GPU, time, before it is run.

As `planning` counts them: what autograd keeps stage by stage, and products. Adapters need no
gradient before the first block, so that stem and tower keep nothing there, nor embeddings; a frozen
trunk keeps nothing at all: its largest part is there for a moment.
"""

from __future__ import annotations

import argparse
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from spacescale.config import Config
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.model.encoder import Encoder
from spacescale.model.space import meta_model
from spacescale.overrides import build_config
from spacescale.planning.activations import activation_bytes
from spacescale.planning.encoder_plan import layer_activations, layer_flops
from spacescale.planning.flops import forward_flops, micro_batch_flops, training_flops
from spacescale.planning.machine import Machine
from spacescale.planning.plan import Precision
from spacescale.planning.species import with_species
from spacescale.space_config import ModelConfig, Stage
from spacescale.tokens.vocabulary import Name
from spacescale.tuning.batches import steps_of_epoch
from spacescale.tuning.encoder_trunk import ADAPTED, EncoderTrunk
from spacescale.tuning.encoding import max_tokens
from spacescale.tuning.settings import (
    HEAD_RATE,
    MIN_STEPS,
    RATES_OF_ENCODERS,
    RATES_OF_SPACE,
    SEEDS,
    STRANDS,
    Mode,
    TuningSettings,
    different_rates,
)
from spacescale.tuning.space_trunk import ADAPTED_OF_EXPERTS, PREDICTING

BEHIND_ADAPTERS = (
    "attention", "attention_projections", "attention_relative", "feed_forward", "pointwise",
)  # fmt: skip
KEPT_BEFORE_ADAPTERS = ("stem", "conv_tower")
# Options of `plan` that no fine-tuning has.
OF_PRETRAINING = (
    "zero", "ep", "micro_batch", "accumulation", "measure", "json", "link_gbytes_per_s",
    "gpus_per_node", "latency_us",
)  # fmt: skip
OUTPUTS = 2  # of the last layer; a few more change nothing
ADAM_BYTES, FLOAT = 12, 4  # ZeRO keeps a copy of the weights beside both moments


@dataclass(frozen=True)
class TuningCost:
    """Of one GPU and one step; bytes and FLOPs."""

    mode: Mode
    read: str  # of each sequence, for people
    sequences: int  # of this GPU
    batch: int  # of all GPUs
    parameters: int
    trained: int
    weights: float
    gradients: float
    optimiser: float
    activations: float
    flops: float

    @property
    def total(self) -> float:
        """Bytes at least, without temporaries and buffers."""
        return self.weights + self.gradients + self.optimiser + self.activations


def tuning_cost(
    config: ModelConfig,
    mode: Mode,
    length: int,
    batch: int,
    lora_rank: int = 8,
    gpus: int = 1,
    precision: Precision = "fp32",
    on_gpu: bool = True,
) -> TuningCost:
    """Cost of sequences of `length` bp, `batch` of them a step on all GPUs, ZeRO stage 1.

    Raises UserError for sizes below 1, or fewer sequences than GPUs.
    """
    share, bins = _share(length, batch, gpus), -(-length // config.bin_size)
    parameters, trained = _parameters(config, mode, lora_rank)
    short = config.model_copy(
        update={
            "seq_length": bins * config.bin_size,
            "target_length": bins,
            "species": {"one": ("one",)},  # a track: the last layer is hardly more
            "decoder": "none",
            "checkpoint_stages": (),
        }
    )
    windows = {"one": share}
    stages = micro_batch_flops(short, windows)
    stages.pop("heads")
    forward = forward_flops(stages)
    kept = activation_bytes(short, windows, precision, on_gpu, 1).kept
    if mode == "full":
        flops, activations = training_flops(stages), sum(kept.values())
    elif mode == "lora":
        # Gradients of inputs, not of the weights beside which adapters stand; but those of experts,
        # whose adapters are added to the weights before they are used.
        behind = sum(stages[name].forward for name in BEHIND_ADAPTERS)
        flops = forward + behind
        if config.species_num_experts:
            flops += stages["feed_forward"].forward
        before = {name for name in kept if name.startswith(KEPT_BEFORE_ADAPTERS)}
        activations = sum(size for name, size in kept.items() if name not in before)
    else:
        recomputed = short.model_copy(update={"checkpoint_stages": get_args(Stage)})
        largest = activation_bytes(recomputed, windows, precision, on_gpu, 1).recomputed
        flops, activations = forward, largest
    read = f"{bins} bins of {config.bin_size} bp"
    return _cost(mode, read, share, batch, gpus, (parameters, trained), activations, flops)


def encoder_tuning_cost(
    config: EncoderConfig,
    part: Name,
    mode: Mode,
    length: int,
    batch: int,
    lora_rank: int = 8,
    gpus: int = 1,
    precision: Precision = "fp32",
    on_gpu: bool = True,
) -> TuningCost:
    """The same of an encoder that reads one part of a vocabulary: at the most tokens there can be.

    Raises UserError as `tuning_cost`.
    """
    share, tokens = _share(length, batch, gpus), max_tokens(length, part)
    stages = layer_flops(config, share, tokens)
    forward, attention = forward_flops(stages), stages["attention"].forward
    kept = layer_activations(config, share, tokens, precision, on_gpu)
    if mode == "full":  # kernels of attention compute the logits again
        flops, activations = training_flops(stages) + attention / 2, sum(kept.values())
    elif mode == "lora":
        # Gradients of inputs, not of weights; none of what the first layer is given.
        first = 2 * share * tokens * 3 * config.dim**2
        flops = 2 * forward + 1.5 * attention - first
        activations = sum(size for name, size in kept.items() if name != "embeddings")
    else:
        one = max(kept["attention"], kept["feed_forward"]) / config.depth
        flops, activations = forward, kept["ALiBi"] + one
    sizes = _encoder_parameters(config, mode, lora_rank)
    return _cost(mode, f"{tokens} tokens", share, batch, gpus, sizes, activations, flops)


def _share(length: int, batch: int, gpus: int) -> int:
    """Sequences of a GPU."""
    for name, value in (("--length", length), ("--batch", batch), ("--gpus", gpus)):
        if value < 1:
            raise UserError(f"{name} {value}: expected at least 1")
    if batch < gpus:
        raise UserError(f"--batch {batch}: {gpus} GPUs need as many sequences")
    return -(-batch // gpus)


def _cost(
    mode: Mode,
    read: str,
    share: int,
    batch: int,
    gpus: int,
    sizes: tuple[int, int],
    activations: float,
    flops: float,
) -> TuningCost:
    """sizes: parameters held, and trained."""
    held, trained = sizes
    return TuningCost(
        mode,
        read,
        share,
        batch,
        held,
        trained,
        FLOAT * held,
        FLOAT * trained,
        ADAM_BYTES * trained / gpus,
        activations,
        flops,
    )


def longest_fitting(
    needed: Callable[[int], float], available: float, bin_size: int, longest: int
) -> int:
    """The most bp in whole bins, below `longest`, that need no more bytes than are available.

    needed: bp → bytes, rising. 0 where not even a bin fits.
    """
    bins = range(1, longest // bin_size + 1)
    return bin_size * bisect_right(bins, available, key=lambda number: needed(number * bin_size))


def _parameters(config: ModelConfig, mode: Mode, rank: int) -> tuple[int, int]:
    """All parameters that are held, and those that are trained."""
    model = meta_model(config)
    head = (2 * config.dim + 1) * OUTPUTS
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    held = sum(sizes.values()) + head
    if mode == "full":
        return held, head + sum(n for name, n in sizes.items() if not name.startswith(PREDICTING))
    if mode == "head":
        return held, head
    shapes = {name: p.shape for name, p in model.named_parameters()}
    adapters = sum(_adapter(name, tuple(shape), rank) for name, shape in shapes.items())
    return held + adapters, head + adapters


def _adapter(name: str, shape: tuple[int, ...], rank: int) -> int:
    """Elements of the two matrices beside a weight of attention or experts, 0 for others."""
    words = name.split(".")
    if words[0] != "transformer":
        return 0
    adapted = words[-1] == "weight" and words[-2] in ("to_q", "to_k", "to_v", "to_out")
    dense = words[-1] == "weight" and words[-3:-1] in (["moe", "input"], ["moe", "output"])
    if adapted or dense:
        return rank * (shape[0] + shape[1])
    if words[-2:-1] == ["experts"] and words[-1] in ADAPTED_OF_EXPERTS:
        return shape[0] * rank * (shape[1] + shape[2])
    return 0


def _encoder_parameters(config: EncoderConfig, mode: Mode, rank: int) -> tuple[int, int]:
    """The same of an encoder, with the layers above [CLS]."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Encoder(config).named_parameters()}
    head = (config.dim + 1) * (config.dim + OUTPUTS)
    held = head + sum(shape.numel() for shape in shapes.values())
    if mode == "full":
        unused = [s.numel() for name, s in shapes.items() if name.startswith(EncoderTrunk.unused)]
        return held, held - sum(unused)
    if mode == "head":
        return held, head
    adapters = sum(
        rank * sum(shape)
        for name, shape in shapes.items()
        if name.startswith("layers.") and name.endswith(tuple(f".{a}.weight" for a in ADAPTED))
    )
    return held + adapters, head + adapters


def cost_lines(
    cost: TuningCost, machine: Machine, sequences: int | None, rates: Sequence[float]
) -> list[str]:
    """The cost for people.

    sequences: of an epoch, where it is to be timed. rates: those tried by default.
    """
    gib = 2**30
    seconds = cost.flops / (machine.tflops * 1e12)
    fits = "fits" if cost.total < machine.memory_gib * gib else "does not fit"
    lines = [
        f"parameters {cost.parameters:,}, of which {cost.trained:,} are trained ({cost.mode})",
        f"{cost.sequences} sequences of {cost.read} a step on each GPU, ZeRO-1",
        f"GiB on each GPU: weights {cost.weights / gib:.2f}, gradients {cost.gradients / gib:.2f}, "
        f"optimiser {cost.optimiser / gib:.2f}, activations {cost.activations / gib:.2f}, together "
        f"{cost.total / gib:.2f} at least: {fits} in {machine.memory_gib:g}",
        f"a step {cost.flops / 1e9:,.0f} GFLOP, {1000 * seconds:.1f} ms at {machine.tflops:g} "
        "TFLOP/s; short sequences reach less of that rate",
    ]
    if sequences is not None:
        lines.append(_time(cost, sequences, seconds, rates))
    return lines


def _time(cost: TuningCost, sequences: int, seconds: float, rates: Sequence[float]) -> str:
    """What `finetune` computes by default; seconds: of a step."""
    by_default = f"by default a method takes {_trainings(cost.mode, rates)}"
    if cost.mode == "head":
        minutes = sequences / cost.batch * seconds / 60
        return (
            f"features of {sequences:,} sequences: {minutes:.2f} minutes for a strand, 3 or 4 "
            f"times as both are tried; trainings read them from memory, uncounted; {by_default}"
        )
    steps = steps_of_epoch(sequences, cost.batch, math.ceil(MIN_STEPS / TuningSettings.epochs))
    return (
        f"one epoch of one training, {steps:,} steps over {sequences:,} sequences: "
        f"{steps * seconds / 60:.2f} minutes; {by_default}"
    )


def _trainings(mode: Mode, rates: Sequence[float]) -> str:
    """How many trainings `finetune` makes of one method, and of what."""
    tried = len(different_rates(mode, rates, HEAD_RATE))
    total = tried + len(STRANDS) - 1 + SEEDS - 1
    of_rates = "1 learning rate" if tried == 1 else f"{tried} learning rates"
    return f"{total} trainings ({of_rates}, the other strands, {SEEDS - 1} more seeds)"


def plan_tuning(args: argparse.Namespace, machine: Machine) -> str:
    """What `spacescale plan --finetune` prints, of its options.

    Raises UserError for those that say nothing of a fine-tuning.
    """
    values = {name: getattr(args, name) for name in OF_PRETRAINING}
    given = [name for name, value in values.items() if value is not None and value is not False]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(
            f"{named}: of a pretraining's plan; --finetune {args.finetune} takes --length, "
            "--batch, --lora-rank, --sequences, --gpus, --precision, --machine and --tflops"
        )
    config = with_species(build_config(args.preset, args.overrides), args.data)
    sizes = (args.length, args.batch, args.lora_rank, args.gpus)
    of_tokens = isinstance(config.model, EncoderConfig)
    rates = RATES_OF_ENCODERS if of_tokens else RATES_OF_SPACE
    return "\n".join(cost_lines(_planned(config, args, sizes), machine, args.sequences, rates))


def _planned(
    config: Config, args: argparse.Namespace, sizes: tuple[int, int, int, int]
) -> TuningCost:
    if isinstance(config.model, EncoderConfig):
        names = config.mlm.vocabularies
        part = "kmer" if "kmer" in names else names[0]  # the one with more tokens
        return encoder_tuning_cost(config.model, part, args.finetune, *sizes, args.precision)
    return tuning_cost(config.space, args.finetune, *sizes, args.precision)
