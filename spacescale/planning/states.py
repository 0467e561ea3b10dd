"""Bytes of weights, gradients and optimiser states on one GPU, by ZeRO stage and layout.

Weights are fp32 also under bf16 autocast (`torch_autocast`, the shipped DeepSpeed configurations).
Each parameter costs 4 B of weight, 4 B of gradient and 8 B of AdamW moments; from stage 1 on,
DeepSpeed keeps a further fp32 copy of its share of the weights beside the moments. Of N processes
that hold the same parameter, each keeps

| stage | weights | gradients | optimiser |
|---|---|---|---|
| 0 | 4 | 4 | 8 |
| 1 | 4 | 4 | 12 / N |
| 2 | 4 | 4 / N | 12 / N |
| 3 | 4 / N | 4 / N | 12 / N |

N is the number of processes; for experts, processes ÷ expert-parallel size.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.parallel.expert_groups import resolve_ep_size
from spacescale.planning.parameters import ParameterCounts

MAX_ZERO_STAGE = 3


@dataclass(frozen=True)
class Layout:
    """How a run is spread over GPUs."""

    gpus: int
    zero_stage: int
    ep_size: int


@dataclass(frozen=True)
class StateBytes:
    """Bytes on one GPU that last from step to step (gradients: within a step)."""

    weights: float
    gradients: float
    optimiser: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimiser


def resolve_layout(config: Config, gpus: int, zero_stage: int, ep_size: int | None) -> Layout:
    """Check a layout; `ep_size` None is the configuration's own (parallel.ep_size), or
    with ZeRO-0, which cannot spread experts, 1.

    Raises UserError naming the value that is wrong and what is allowed.
    """
    if gpus < 1:
        raise UserError(f"--gpus {gpus}: expected at least 1")
    if not 0 <= zero_stage <= MAX_ZERO_STAGE:
        raise UserError(f"--zero {zero_stage}: there are ZeRO stages 0 to {MAX_ZERO_STAGE}")
    if zero_stage == 0 and ep_size is None:
        ep_size = 1
    asked = {} if ep_size is None else {"ep_size": ep_size}
    ep_size = resolve_ep_size(config.parallel.model_copy(update=asked), config.model, gpus)
    if zero_stage == 0 and ep_size > 1:
        raise UserError(
            f"--zero 0 with --ep {ep_size}: DeepSpeed clips by a wrong norm there; "
            "take --zero 1 or --ep 1"
        )
    return Layout(gpus, zero_stage, ep_size)


def state_bytes(counts: ParameterCounts, layout: Layout) -> StateBytes:
    """Bytes of weights, gradients and optimiser states on one GPU."""
    dense = _replicated_bytes(counts.total - counts.experts, layout.gpus, layout.zero_stage)
    experts = _replicated_bytes(
        counts.experts // layout.ep_size, layout.gpus // layout.ep_size, layout.zero_stage
    )
    return StateBytes(
        dense.weights + experts.weights,
        dense.gradients + experts.gradients,
        dense.optimiser + experts.optimiser,
    )


def _replicated_bytes(held: int, replicas: int, stage: int) -> StateBytes:
    """Bytes for `held` parameters that `replicas` processes hold alike."""
    return StateBytes(
        weights=4 * held / (replicas if stage >= 3 else 1),
        gradients=4 * held / (replicas if stage >= 2 else 1),
        optimiser=12 * held / replicas if stage >= 1 else 8 * held,
    )
