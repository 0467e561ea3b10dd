"""Bytes on the wire: what each GPU sends in one optimiser step, by kind.

A collective over n GPUs is counted as the bytes that each of them sends in a ring algorithm, for a
tensor of S bytes: 2·S·(n−1)/n for an all-reduce, S·(n−1)/n for an all-gather and a reduce-scatter
(S is then the whole tensor). Of an all-to-all only what leaves the GPU counts. NCCL's other
algorithms send as much or less. Left out are norms and checks of a few numbers.

DeepSpeed sends more than the ZeRO paper's tables suggest:

| ZeRO | gradients | weights |
|---|---|---|
| 0 | all-reduce, once per step | |
| 1 | all-reduce, once per step | all-gather of the updated weights, once per step |
| 2 | all-reduce, in every micro-step (each GPU then keeps its share) | as with 1 |
| 3 | reduce-scatter, in every micro-step | all-gather, in every micro-step |

With ZeRO-3 the forward pass gathers all weights, and the backward pass again those that were let go
meanwhile. Otherwise weights travel in fp32. Under autocast the gradients of linear and convolution
layers travel in bf16, with ZeRO-3 their weights too; those of experts always in fp32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spacescale.config import AnyModel, Config
from spacescale.model.layers import BatchNorm
from spacescale.model.space import meta_model
from spacescale.planning.parameters import autocast_layer_parameters, count_parameters
from spacescale.planning.states import Layout
from spacescale.space_config import ModelConfig

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
# Which GPUs take part: all; those that share one set of experts; those that hold the same experts.
Group = Literal["all", "expert_parallel", "expert_replicas"]

FLOAT, BF16, INDEX = 4, 2, 8  # bytes
BUCKET = 50_000_000  # elements: ds_configs' reduce_bucket_size, DeepSpeed's prefetch_bucket_size
REUSE_DISTANCE = 10**9  # elements: DeepSpeed's stage3_max_reuse_distance


@dataclass(frozen=True)
class Collective:
    """All calls of one kind in one optimiser step."""

    operation: Operation
    group: Group
    gpus: int  # that take part
    payload: float  # bytes of the whole tensors of all calls
    calls: int

    @property
    def sent(self) -> float:
        """Bytes that each GPU sends."""
        passes = 2 if self.operation == "all_reduce" else 1
        return passes * self.payload * (self.gpus - 1) / self.gpus


Traffic = dict[str, list[Collective]]  # kind → collectives


def step_traffic(
    config: Config,
    layout: Layout,
    windows: dict[str, int],
    precision: str,
    accumulation: int = 1,
    reuse_distance: int = REUSE_DISTANCE,
) -> Traffic:
    """Traffic of one optimiser step of `accumulation` micro-batches of `windows` on every GPU."""
    model = config.model
    traffic = _state_traffic(model, layout, precision, accumulation, reuse_distance)
    if not isinstance(model, ModelConfig):
        return traffic
    traffic["expert rows"] = _expert_rows(model, layout, windows, precision)
    traffic["BatchNorm"] = _batchnorm(model, layout, len(windows))
    traffic["routing sums"] = _routing_sums(config, layout)
    in_micro_steps = ("expert rows", "BatchNorm", "routing sums")
    return {
        kind: [_repeated(c, accumulation if kind in in_micro_steps else 1) for c in collectives]
        for kind, collectives in traffic.items()
    }


def sent_bytes(traffic: Traffic) -> dict[str, float]:
    """Kind → bytes that each GPU sends."""
    return {kind: sum(c.sent for c in collectives) for kind, collectives in traffic.items()}


def _repeated(once: Collective, times: int) -> Collective:
    return Collective(
        once.operation, once.group, once.gpus, once.payload * times, once.calls * times
    )


@dataclass(frozen=True)
class _Replicated:
    """Parameters that every GPU of a group holds alike."""

    name: str
    group: Group
    gpus: int
    elements: int
    bytes: float  # of their gradients on the wire


def _state_traffic(
    model: AnyModel, layout: Layout, precision: str, accumulation: int, reuse_distance: int
) -> Traffic:
    counts = count_parameters(model)
    dense, experts = counts.total - counts.experts, counts.experts // layout.ep_size
    narrow = autocast_layer_parameters(model) if precision == "bf16" else 0
    kept = _kept_for_backward(dense + experts, reuse_distance)
    replicas = layout.gpus // layout.ep_size
    traffic: Traffic = {}
    for held in (
        _Replicated("", "all", layout.gpus, dense, FLOAT * dense - (FLOAT - BF16) * narrow),
        _Replicated("expert ", "expert_replicas", replicas, experts, FLOAT * experts),
    ):
        traffic[f"{held.name}gradients"] = [_gradients(held, layout.zero_stage, accumulation)]
        traffic[f"{held.name}weights"] = [_weights(held, layout.zero_stage, accumulation, kept)]
    return traffic


def _kept_for_backward(elements: int, reuse_distance: int) -> float:
    """Share of the gathered weights that ZeRO-3 does not let go between forward and backward.

    The last weights of the forward pass are the first of the backward pass: up to the reuse
    distance there and back, they stay.
    """
    return min(1.0, reuse_distance / 2 / elements)


def _gradients(held: _Replicated, zero_stage: int, accumulation: int) -> Collective:
    operation = "reduce_scatter" if zero_stage == 3 else "all_reduce"
    times = accumulation if zero_stage >= 2 else 1
    buckets = math.ceil(held.elements / BUCKET)
    return Collective(operation, held.group, held.gpus, times * held.bytes, times * buckets)


def _weights(held: _Replicated, zero_stage: int, accumulation: int, kept: float) -> Collective:
    if zero_stage < 3:
        payload, calls = FLOAT * held.elements, 2  # groups with and without weight decay
        if zero_stage == 0:
            payload = calls = 0
        return Collective("all_gather", held.group, held.gpus, payload, calls)
    passes = accumulation * (2 - kept)
    buckets = math.ceil(passes * held.elements / BUCKET)
    return Collective("all_gather", held.group, held.gpus, passes * held.bytes, buckets)


def _expert_rows(
    model: ModelConfig, layout: Layout, windows: dict[str, int], precision: str
) -> list[Collective]:
    """Rows to their experts and back, and the gradients of both; how many rows go where.

    Autocast computes LayerNorm in fp32, and its output is what is sent out; bf16 comes back.
    """
    if layout.ep_size == 1:
        return []
    rows = sum(windows.values()) * model.num_tokens * model.species_top_k
    out, back = FLOAT, BF16 if precision == "bf16" else FLOAT
    forward = rows * model.dim * (out + back) + INDEX * model.species_num_experts
    backward = rows * model.dim * (out + back)
    forwards = 2 if "transformer" in model.checkpoint_stages else 1
    payload = model.depth * (forwards * forward + backward)
    calls = model.depth * (3 * forwards + 2)
    return [Collective("all_to_all", "expert_parallel", layout.ep_size, payload, calls)]


def _batchnorm(model: ModelConfig, layout: Layout, num_species: int) -> list[Collective]:
    """Every GPU's means, variances and counts, gathered by all; back, the gradient of all of them.

    The tensors grow with the number of GPUs.
    """
    times = num_species if model.batchnorm == "per_species" else 1
    gathers = calls = reduced = norms = 0
    for stage, part in meta_model(model).named_children():
        widths = [2 * m.num_features + 1 for m in part.modules() if isinstance(m, BatchNorm)]
        forwards = 2 if stage in model.checkpoint_stages else 1
        gathers, calls = gathers + forwards * sum(widths), calls + forwards * len(widths)
        reduced, norms = reduced + sum(widths), norms + len(widths)
    payload = FLOAT * layout.gpus * times
    return [
        Collective("all_gather", "all", layout.gpus, payload * gathers, calls * times),
        Collective("all_reduce", "all", layout.gpus, payload * reduced, norms * times),
    ]


def _routing_sums(config: Config, layout: Layout) -> list[Collective]:
    """One tensor of sums per mixture of experts, forwards and backwards (`model.router`)."""
    if config.loss.routing_scope == "rank":
        return []
    model, sizes = config.space, []
    species = len(model.species)
    if model.species_num_experts:
        sizes += model.depth * [_sums_size(species, model.species_num_experts, kinds=1)]
    if model.decoder == "moe":
        kinds = model.groups_per_type + 1 + model.species_token
        rows = species * len(model.profile_types)
        sizes.append(_sums_size(rows, model.tracks_num_experts, kinds))
    payload = 2 * FLOAT * sum(sizes)
    return [Collective("all_reduce", "all", layout.gpus, payload, 2 * len(sizes))]


def _sums_size(rows: int, num_experts: int, kinds: int) -> int:
    """Elements of one layer's RoutingSums."""
    return rows * (num_experts + 2 * kinds + 3)
