"""Training losses of SPACE (paper, section 3.4).

Shapes: B batch, N bins, T tracks, E experts; "rows" are species, or species × profile types.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.model.router import RoutingSums
from spacescale.model.space import SpaceOutput

SumOverRanks = Callable[[Tensor], Tensor]


def poisson_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean Poisson negative log likelihood p − y·log p, without the constant.

    prediction and target (B, N, T) float32; the logarithm is taken of at least 1e-20.
    """
    return (prediction - target * prediction.clamp(min=1e-20).log()).mean()


def mi_loss(gate_mass: Tensor) -> Tensor:
    """Negative mutual information between rows and experts, from gate mass (rows, E).

    The mass is normalised to a distribution; the released code divides by a fixed count instead,
    which is not the number of tokens. Zero when only one row holds mass.
    """
    joint = gate_mass / gate_mass.sum()
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    eps = 1e-10
    return -(joint * torch.log(joint / (independent + eps) + eps)).sum()


def cv_loss(gate_mass: Tensor) -> Tensor:
    """Squared coefficient of variation of expert usage, from gate mass (rows, E).

    Usage is the mass of each expert over all rows, so that balanced routing scores 0. (The released
    encoder takes the variation over single gates, which cannot tell balance from collapse.)
    """
    usage = gate_mass.sum(0)
    if len(usage) == 1:  # one expert is all there is: balanced, and without a variance
        return 0.0 * usage.sum()
    return usage.var() / (usage.mean() ** 2 + 1e-10)


def routing_losses(layers: list[RoutingSums], weights: LossConfig, name: str) -> dict[str, Tensor]:
    """Weighted MI, z and cv losses, each the sum over the layers."""
    if not layers:
        return {}
    return {
        f"{name}_mi": weights.mi_weight * torch.stack([mi_loss(s.gate_mass) for s in layers]).sum(),
        f"{name}_z": weights.z_weight
        * torch.stack([s.logit_squares / s.num_logits for s in layers]).sum(),
        f"{name}_cv": weights.cv_weight * torch.stack([cv_loss(s.gate_mass) for s in layers]).sum(),
    }


def training_losses(
    output: SpaceOutput,
    targets: dict[str, Tensor],
    weights: LossConfig,
    sum_over_ranks: SumOverRanks,
) -> dict[str, Tensor]:
    """All loss terms of one micro-step; their sum is what is differentiated.

    `targets` are (B_s, N, T_s) float32 per species. A species' Poisson term is weighted by its
    share of the batch's windows, so the terms of the species add up to a mean over windows, and by
    its `species_weight`. The
    routing terms are those of all ranks' windows together: `sum_over_ranks` adds a tensor over
    ranks, differentiably.
    """
    num_windows = sum(t.shape[0] for t in targets.values())
    losses = {}
    for name, target in targets.items():
        loss = poisson_loss(output.prediction[name], target)
        if output.enhanced:
            loss = (loss + poisson_loss(output.enhanced[name], target)) / 2
        share = target.shape[0] / num_windows
        losses[f"poisson/{name}"] = loss * share * weights.species_weight.get(name, 1.0)
    encoder = [_summed(sums, sum_over_ranks) for sums in output.encoder_routing]
    losses |= routing_losses(encoder, weights, "encoder")
    if output.decoder_routing is not None:
        decoder = [_summed(output.decoder_routing, sum_over_ranks)]
        losses |= routing_losses(decoder, weights, "decoder")
    return losses


def _summed(sums: RoutingSums, sum_over_ranks: SumOverRanks) -> RoutingSums:
    """One collective for all of a layer's sums."""
    flat = sum_over_ranks(torch.cat([part.flatten() for part in sums]))
    parts = flat.split([part.numel() for part in sums])
    return RoutingSums(*(p.view_as(part) for p, part in zip(parts, sums, strict=True)))
