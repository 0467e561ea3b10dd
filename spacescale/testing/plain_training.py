"""What training computes, in plain PyTorch: one process, all ranks' windows, no DeepSpeed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spacescale.model.router import ExpertChoice
from spacescale.objectives import Losses

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

Forward = Callable[..., Any]
MicroStep = Callable[[Forward], Losses]  # what a model loses in one


@dataclass(frozen=True)
class PlainStep:
    """One optimiser step: what its micro-steps lost, and the norm before clipping."""

    losses: list[Losses]  # without gradient
    norm: float

    @property
    def loss(self) -> float:
        """Mean over the micro-steps."""
        return sum(float(of.total) for of in self.losses) / len(self.losses)


def accumulate(
    model: nn.Module, micro_step: MicroStep, micro_steps: int, bf16: bool = False
) -> Losses:
    """Add the gradients of one of so many micro-steps; returns what it lost, without gradient.

    bf16: the forward pass runs under autocast.
    """

    def forward(*inputs: Any) -> Any:
        device = next(model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            return model(*inputs)

    losses = micro_step(forward)
    (losses.total / micro_steps).backward()
    of_species = {
        name: replace(found, mean=found.mean.detach()) for name, found in losses.of_species.items()
    }
    terms = {name: term.detach() for name, term in losses.terms.items()}
    return Losses(losses.total.detach(), terms, of_species)


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_steps: Sequence[MicroStep],
    clip: float,
    bf16: bool = False,
) -> PlainStep:
    """Train one step; the clipped gradients stay with the parameters."""
    optimizer.zero_grad()
    losses = [accumulate(model, micro_step, len(micro_steps), bf16) for micro_step in micro_steps]
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip))
    optimizer.step()
    return PlainStep(losses, norm)


def without_gradient(model: nn.Module, micro_steps: Sequence[MicroStep]) -> set[str]:
    """Parameters whose gradient is zero but for rounding, such as biases before a BatchNorm."""
    exact = copy.deepcopy(model).double()
    exact.zero_grad()
    for micro_step in micro_steps:
        accumulate(exact, micro_step, len(micro_steps))
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
