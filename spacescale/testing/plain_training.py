"""What training computes, stated in plain PyTorch: one process, all ranks' windows, no DeepSpeed.

Shapes: B_s windows of a species, L bases, N bins, T_s tracks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spacescale.config import LossConfig
from spacescale.model.losses import SumOverRanks, training_losses
from spacescale.model.router import ExpertChoice
from spacescale.model.space import Space, SpaceOutput

# A model of 4 bins of 8 bp with a router in every block, trained in milliseconds; without dropout,
# whose masks no other layout of processes draws alike.
TINY_MODEL: dict[str, Any] = {
    "seq_length": 64,
    "target_length": 4,
    "num_downsamples": 3,
    "dim": 24,
    "dim_divisible_by": 8,
    "depth": 2,
    "heads": 2,
    "attn_dim_key": 8,
    "tracks_num_experts": 4,
    "tracks_top_k": 2,
    "dropout": 0.0,
    "attn_dropout": 0.0,
    "pos_dropout": 0.0,
}

# Species → codes (B_s, L) uint8 and scaled targets (B_s, N, T_s), of one micro-step.
Windows = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PlainStep:
    """One optimiser step: the loss terms of its micro-steps, and the norm before clipping."""

    terms: list[dict[str, float]]
    norm: float

    @property
    def loss(self) -> float:
        """Mean over the micro-steps."""
        return sum(sum(terms.values()) for terms in self.terms) / len(self.terms)


def loss_terms(
    model: Callable[[dict[str, Tensor]], SpaceOutput],
    windows: Windows,
    loss: LossConfig,
    sum_over_ranks: SumOverRanks,
    on_all_ranks: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Loss terms of one micro-step, of a plain model or of a rank's engine.

    on_all_ranks: how many windows of each species all ranks hold together.
    """
    output = model({name: codes for name, (codes, _) in windows.items()})
    targets = {name: targets for name, (_, targets) in windows.items()}
    return training_losses(output, targets, loss, sum_over_ranks, on_all_ranks=on_all_ranks)


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum that is differentiated."""
    return torch.stack(list(terms.values())).sum()


def accumulate(
    model: Space, windows: Windows, loss: LossConfig, micro_steps: int, bf16: bool = False
) -> dict[str, float]:
    """Add the gradients of one of so many micro-steps; returns its loss terms.

    Targets are taken in the model's dtype. bf16: the forward pass runs under autocast.
    """

    def forward(codes: dict[str, Tensor]) -> SpaceOutput:
        device = next(iter(codes.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            return model(codes)

    dtype = next(model.parameters()).dtype
    windows = {name: (codes, targets.to(dtype)) for name, (codes, targets) in windows.items()}
    terms = loss_terms(forward, windows, loss, lambda x: x)
    (total(terms) / micro_steps).backward()
    return {name: float(term.detach()) for name, term in terms.items()}


def plain_step(
    model: Space,
    optimizer: torch.optim.Optimizer,
    micro_steps: Sequence[Windows],
    loss: LossConfig,
    clip: float,
    bf16: bool = False,
) -> PlainStep:
    """Train one step; the clipped gradients stay with the parameters."""
    optimizer.zero_grad()
    terms = [accumulate(model, windows, loss, len(micro_steps), bf16) for windows in micro_steps]
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip))
    optimizer.step()
    return PlainStep(terms, norm)


def without_gradient(model: Space, micro_steps: Sequence[Windows], loss: LossConfig) -> set[str]:
    """Parameters whose gradient is zero but for rounding, such as biases before a BatchNorm."""
    exact = copy.deepcopy(model).double()
    exact.zero_grad()
    for windows in micro_steps:
        accumulate(exact, windows, loss, len(micro_steps))
    largest = {
        n: float(p.grad.abs().max()) for n, p in exact.named_parameters() if p.grad is not None
    }
    return {name for name, value in largest.items() if value < 1e-12 * max(largest.values())}


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of BatchNorm's running means and variances."""
    return {name: b.detach().clone() for name, b in model.named_buffers() if "running" in name}


def watch_margins(model: nn.Module) -> list[float]:
    """How far the last chosen expert's logit is above the first not chosen, for every call.

    Filled by the forward passes from here on. Rounding can turn a choice whose margin is as small.
    """
    margins: list[float] = []

    def look(choice: ExpertChoice, inputs: tuple[Tensor], _: Tensor) -> None:
        logits = inputs[0].detach().sort(descending=True).values
        if choice.top_k < logits.shape[-1]:
            gaps = logits[..., choice.top_k - 1] - logits[..., choice.top_k]
            margins.append(float(gaps.min()))

    for module in model.modules():
        if isinstance(module, ExpertChoice):
            module.register_forward_hook(look)
    return margins
