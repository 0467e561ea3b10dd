"""Training losses of SPACE (paper, section 3.4), each in the form that LossConfig names.

Shapes: B batch, N bins, T tracks, E experts; "rows" are species, or species × profile types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.model.router import RoutingSums
from spacescale.model.space import SpaceOutput
from spacescale.model.species_loss import SpeciesLoss

SumOverRanks = Callable[[Tensor], Tensor]
Weights = Tensor | float  # of each track, (T,), or one for all


def poisson_terms(prediction: Tensor, target: Tensor) -> Tensor:
    """Poisson negative log likelihood p − y·log p of each target, without the constant.

    Two tensors of one shape, float32; the logarithm is taken of at least 1e-20.
    """
    return prediction - target * prediction.clamp(min=1e-20).log()


def poisson_loss(prediction: Tensor, target: Tensor, track_weights: Weights = 1.0) -> Tensor:
    """Mean of `poisson_terms` over targets (B, N, T) float32; 0 where there are no windows.

    Each track's terms are multiplied by its weight (T,).
    """
    terms = track_weights * poisson_terms(prediction, target)
    return terms.mean() if len(terms) else terms.sum()


def measured_poisson_loss(
    prediction: Tensor, target: Tensor, share_of_measured: Tensor, track_weights: Weights = 1.0
) -> Tensor:
    """`poisson_loss` over the targets that are not NaN: their sum times `share_of_measured`.

    What is NaN gets a gradient of exactly 0: it is replaced before the loss and left out after it.
    """
    measured = ~target.isnan()
    terms = track_weights * poisson_terms(prediction, torch.where(measured, target, 0.0))
    return torch.where(measured, terms, 0.0).sum() * share_of_measured


def poisson_sums(prediction: Tensor, target: Tensor, track_weights: Weights = 1.0) -> Tensor:
    """Sum of weighted `poisson_terms` over what is not NaN, and its number: float64 (2,)."""
    measured = ~target.isnan()
    terms = track_weights * poisson_terms(prediction, torch.where(measured, target, 0.0))
    total = torch.where(measured, terms, 0.0).sum(dtype=torch.float64)
    return torch.stack([total, measured.sum().double()])


def mi_loss(sums: RoutingSums, weights: LossConfig, tokens_per_item: int) -> Tensor:
    """Negative mutual information between rows and experts (paper, eq. 6).

    Gate mass becomes a joint distribution as `weights.mi_normaliser` says. Zero when only one row
    holds mass.
    """
    mass = sums.gate_mass.double()  # near independence the terms cancel
    if weights.mi_normaliser == "mass":
        joint = mass / mass.sum()
    else:
        joint = mass / (sums.num_items.sum() * tokens_per_item)
    eps = 1e-10
    rows, experts = joint.sum(1, keepdim=True) + eps, joint.sum(0, keepdim=True) + eps
    return -(joint * torch.log(joint / rows / experts + eps)).sum().to(sums.gate_mass.dtype)


def cv_of_usage(sums: RoutingSums) -> Tensor:
    """Squared coefficient of variation of the experts' gate mass: balanced routing scores 0."""
    usage = sums.gate_mass.sum(0)
    if len(usage) == 1:  # one expert is all there is: balanced, and without a variance
        return 0.0 * usage.sum()
    return usage.var() / (usage.mean() ** 2 + 1e-10)


def cv_of_gates(sums: RoutingSums) -> Tensor:
    """Squared coefficient of variation of single gates, added up over the rows that have any."""
    count = sums.num_gates.clamp(min=2)  # absent rows add nothing below
    mean = sums.gate_mass.sum(1) / count
    return (sums.gate_spread / (count - 1) / (mean**2 + 1e-10)).sum()


def z_loss(sums: RoutingSums, weights: LossConfig) -> Tensor:
    """Mean square of the gate logits, reduced as `weights.z_reduction` says."""
    if weights.z_reduction == "mean":
        return sums.logit_squares.sum() / sums.num_logits.sum()
    if weights.empty_types == "nan":
        present = (sums.num_logits > 0).any(1)  # species that the batch holds
        return (sums.logit_squares / sums.num_logits)[present].sum()
    return (sums.logit_squares / sums.num_logits.clamp(min=1)).sum()


def routing_losses(
    layers: list[RoutingSums], weights: LossConfig, part: Literal["encoder", "decoder"]
) -> dict[str, Tensor]:
    """Weighted MI, z and cv losses, each the sum over the layers."""
    if not layers:
        return {}
    in_encoder = part == "encoder"
    tokens_per_item = weights.mi_num_tokens if in_encoder else 1
    cv_loss = cv_of_gates if in_encoder and weights.cv_over == "gates" else cv_of_usage
    terms = {
        "mi": (weights.mi_weight, [mi_loss(sums, weights, tokens_per_item) for sums in layers]),
        "z": (weights.z_weight, [z_loss(sums, weights) for sums in layers]),
        "cv": (weights.cv_weight, [cv_loss(sums) for sums in layers]),
    }
    return {
        f"{part}_{name}": weight * torch.stack(values).sum()
        for name, (weight, values) in terms.items()
    }


def training_losses(
    output: SpaceOutput,
    targets: dict[str, Tensor],
    weights: LossConfig,
    sum_over_ranks: SumOverRanks,
    with_unmeasured: Collection[str] = (),
    on_all_ranks: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """All loss terms of one micro-step; their sum is what is differentiated.

    The arguments are those of `species_losses` and `weighted_losses`.
    """
    found = species_losses(output, targets, sum_over_ranks, with_unmeasured, on_all_ranks)
    return weighted_losses(output, found, weights, sum_over_ranks)


def species_losses(
    output: SpaceOutput,
    targets: dict[str, Tensor],
    sum_over_ranks: SumOverRanks,
    with_unmeasured: Collection[str] = (),
    on_all_ranks: Mapping[str, int] | None = None,
    track_weights: Mapping[str, Weights] | None = None,
    ranks: int | None = None,
) -> dict[str, SpeciesLoss]:
    """The Poisson loss of each species, of both predictions where there is a decoder.

    `targets` are (B_s, N, T_s) float32 per species, the same species in the same order on all
    ranks. `on_all_ranks` says how many windows of each all ranks hold together; without it, each
    rank holds as many of each as this one. Ranks hold as many windows in all; `ranks` says how many
    there are where some of these windows have no targets.

    A species' loss is such that its mean over ranks is the mean over all ranks' windows of the
    species, 0 where this rank has none. `sum_over_ranks` adds a tensor over ranks, differentiably.

    Targets of the species `with_unmeasured`, the same on all ranks, may be NaN, not measured. The
    mean is then over what all ranks measured; one collective counts that. `track_weights` (T_s,)
    multiply each track's terms, 1 where a species is not named.
    """
    here = {name: len(target) for name, target in targets.items()}
    everywhere = here if on_all_ranks is None else on_all_ranks
    if ranks is None:
        ranks = sum(everywhere[name] for name in targets) // sum(here.values())
    own_shares = {name: ranks * count / everywhere[name] for name, count in here.items()}
    weights = dict.fromkeys(targets, 1.0) | dict(track_weights or {})
    poisson: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        name: lambda p, t, name=name: poisson_loss(p, t, weights[name]) * own_shares[name]
        for name in targets
    }
    measured: dict[str, Tensor | float] = dict.fromkeys(targets, 1.0)
    if names := [name for name in targets if name in with_unmeasured]:
        counts = [(~targets[name].isnan()).sum() for name in names]
        # float64 holds any count exactly; the last sum is the number of ranks.
        sums = sum_over_ranks(torch.stack([*counts, torch.ones_like(counts[0])]).double())
        for name, count in zip(names, sums, strict=False):
            share = (sums[-1] / count.clamp(min=1)).to(targets[name].dtype)
            poisson[name] = partial(
                measured_poisson_loss,
                share_of_measured=share,
                track_weights=weights[name],
            )
            measured[name] = count / (everywhere[name] * targets[name].shape[1:].numel())
    found = {}
    for name, target in targets.items():
        loss = poisson[name](output.prediction[name], target)
        if output.enhanced:
            loss = (loss + poisson[name](output.enhanced[name], target)) / 2
        found[name] = SpeciesLoss(loss, everywhere[name], measured[name])
    return found


def weighted_losses(
    output: SpaceOutput,
    of_species: Mapping[str, SpeciesLoss],
    weights: LossConfig,
    sum_over_ranks: SumOverRanks,
) -> dict[str, Tensor]:
    """The terms that are differentiated: species' losses as weighed, and those of the routers.

    With `poisson_reduction` "windows" a species' loss is weighted by its share of all windows, so
    that the terms add up to a mean over windows; its `species_weight` multiplies it in any case.
    With `routing_scope` "ranks" the routing terms are those of all ranks' windows together.
    """
    num_windows = sum(found.windows for found in of_species.values())
    losses = {}
    for name, found in of_species.items():
        share = found.windows / num_windows if weights.poisson_reduction == "windows" else 1.0
        losses[f"poisson/{name}"] = found.mean * share * weights.species_weight.get(name, 1.0)
    encoder = _without_idle_experts(output)
    decoder = [output.decoder_routing]
    decoder = [sums for sums in decoder if sums is not None]
    if weights.routing_scope == "ranks":
        encoder = [_summed(sums, sum_over_ranks) for sums in encoder]
        decoder = [_summed(sums, sum_over_ranks) for sums in decoder]
    losses |= routing_losses(encoder, weights, "encoder")
    return losses | routing_losses(decoder, weights, "decoder")


def _without_idle_experts(output: SpaceOutput) -> list[RoutingSums]:
    """The encoder's sums without the experts of species of which there are no windows at all.

    Nothing could have balanced their use.
    """
    owners = output.expert_owners
    kept = [e for e, owner in enumerate(owners) if owner is None or owner in output.embedding]
    if len(kept) == len(owners):
        return output.encoder_routing
    return [s._replace(gate_mass=s.gate_mass[:, kept]) for s in output.encoder_routing]


def _summed(sums: RoutingSums, sum_over_ranks: SumOverRanks) -> RoutingSums:
    """One collective for all of a layer's sums."""
    flat = sum_over_ranks(torch.cat([part.flatten() for part in sums]))
    parts = flat.split([part.numel() for part in sums])
    return RoutingSums(*(p.view_as(part) for p, part in zip(parts, sums, strict=True)))
