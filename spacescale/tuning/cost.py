"""What a fine-tuning costs: trained parameters, memory of a GPU, time, before it is run.

As `planning` counts them: what autograd keeps stage by stage, and products. Adapters need no
gradient before the first block, so that stem and tower keep nothing there; a frozen trunk keeps
nothing at all: its largest part is there for a moment.
"""

from __future__ import annotations

import argparse
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.model.space import meta_model
from spacescale.overrides import build_config
from spacescale.planning.activations import activation_bytes
from spacescale.planning.flops import forward_flops, micro_batch_flops, training_flops
from spacescale.planning.machine import Machine
from spacescale.planning.plan import Precision
from spacescale.planning.species import with_species
from spacescale.space_config import ModelConfig, Stage
from spacescale.tuning.sequence_model import ADAPTED_OF_EXPERTS, NOT_EMBEDDING, Mode

BEHIND_ADAPTERS = (
    "attention", "attention_projections", "attention_relative", "feed_forward", "pointwise",
)  # fmt: skip
KEPT_BEFORE_ADAPTERS = ("stem", "conv_tower")
OUTPUTS = 2  # of the last layer; a few more change nothing
ADAM_BYTES, FLOAT = 12, 4  # ZeRO keeps a copy of the weights beside both moments


@dataclass(frozen=True)
class TuningCost:
    """Of one GPU and one step; bytes and FLOPs."""

    mode: Mode
    bins: int
    sequences: int  # of this GPU
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
    for name, value in (("--length", length), ("--batch", batch), ("--gpus", gpus)):
        if value < 1:
            raise UserError(f"{name} {value}: expected at least 1")
    if batch < gpus:
        raise UserError(f"--batch {batch}: {gpus} GPUs need as many sequences")
    bins, share = -(-length // config.bin_size), -(-batch // gpus)
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
    return TuningCost(
        mode,
        bins,
        share,
        parameters,
        trained,
        FLOAT * parameters,
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
        return held, head + sum(
            n for name, n in sizes.items() if not name.startswith(NOT_EMBEDDING)
        )
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


def cost_lines(
    cost: TuningCost, config: Config, machine: Machine, sequences: int | None
) -> list[str]:
    """The cost for people; sequences: of an epoch, where it is to be timed."""
    gib = 2**30
    seconds = cost.flops / (machine.tflops * 1e12)
    fits = "fits" if cost.total < machine.memory_gib * gib else "does not fit"
    lines = [
        f"parameters {cost.parameters:,}, of which {cost.trained:,} are trained ({cost.mode})",
        f"{cost.sequences} sequences of {cost.bins} bins of {config.space.bin_size} bp a step on "
        "each GPU, ZeRO-1",
        f"GiB on each GPU: weights {cost.weights / gib:.2f}, gradients {cost.gradients / gib:.2f}, "
        f"optimiser {cost.optimiser / gib:.2f}, activations {cost.activations / gib:.2f}, together "
        f"{cost.total / gib:.2f} at least: {fits} in {machine.memory_gib:g}",
        f"a step {cost.flops / 1e9:,.0f} GFLOP, {1000 * seconds:.1f} ms at {machine.tflops:g} "
        "TFLOP/s; short sequences reach less of that rate",
    ]
    if sequences is not None:
        steps = max(1, sequences // cost.sequences)
        lines.append(f"an epoch of {sequences:,} sequences {steps * seconds / 60:.1f} minutes")
    return lines


def plan_tuning(args: argparse.Namespace, machine: Machine) -> str:
    """What `spacescale plan --finetune` prints, of its options."""
    config = with_species(build_config(args.preset, args.overrides), args.data)
    sizes = (args.length, args.batch, args.lora_rank, args.gpus)
    cost = tuning_cost(config.space, args.finetune, *sizes, args.precision)
    return "\n".join(cost_lines(cost, config, machine, args.sequences))
