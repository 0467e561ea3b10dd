"""What predictions are held against: the scale of a species' targets, the weights of all tracks.

The gradient of a Poisson loss is as noisy as a track's variance exceeds its mean. Weights inverse
to that, the dispersion, are those of quasi-likelihood (Wedderburn, 1974). They hold across species
as within one: what they share learns from a smooth genome although spiky ones are read beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.dataset.reader import SpeciesData
from spacescale.metrics.track_scale import TrackScale, nonzero_means

WINDOWS_READ = 128  # training windows of a species, evenly spread over its set
LEAST_DISPERSION = 0.2  # is added: nearly constant tracks do not take all the weight


@dataclass(frozen=True)
class SpeciesTargets:
    """What the predictions of one species are held against."""

    scale: TrackScale
    track_weights: Tensor | float  # (T,), as `loss.track_balance` says, or one for all


def targets_of(
    datasets: Mapping[str, SpeciesData], loss: LossConfig, device: torch.device | str
) -> dict[str, SpeciesTargets]:
    """As configured, of each species; reads some training windows where tracks are balanced.

    The mean of a species' weights is its share of the loss; that of all species is 1.
    """
    scales = {
        name: TrackScale(loss.track_scale, nonzero_means(data.track_mean)).to(device)
        for name, data in datasets.items()
    }
    if not loss.track_balance:
        return {name: SpeciesTargets(scale, 1.0) for name, scale in scales.items()}
    weights = {
        name: unscaled_weights(data, scales[name], loss.track_balance)
        for name, data in datasets.items()
    }
    mean = sum(float(of_species.mean()) for of_species in weights.values()) / len(weights)
    return {name: SpeciesTargets(scales[name], (weights[name] / mean).float()) for name in datasets}


def unscaled_weights(data: SpeciesData, scale: TrackScale, balance: float) -> Tensor:
    """Weights (T,) float64 inverse to dispersion, on the scale's device; the same on every rank.

    balance: the power of the dispersion, 0 for equal weights to 1. A track that is constant in the
    windows read weighs 1.
    """
    rows = data.rows("train")
    rows = rows[np.linspace(0, len(rows) - 1, min(WINDOWS_READ, len(rows))).astype(int)]
    sums = torch.zeros(3, len(scale.means), dtype=torch.float64, device=scale.means.device)
    for row in rows.tolist():
        stored = torch.from_numpy(np.asarray(data.targets(row)))
        targets = scale.targets(stored.to(scale.means.device)).double()
        measured = ~targets.isnan()
        known = torch.where(measured, targets, 0.0)
        sums += torch.stack([measured.sum(0), known.sum(0), known.square().sum(0)])
    count, total, squares = sums
    mean = total / count
    dispersion = (squares / count - mean.square()) / mean
    varies = dispersion > 1e-6  # also false for NaN, of what was never measured or always 0
    return torch.where(varies, (dispersion + LEAST_DISPERSION) ** -balance, 1.0)
