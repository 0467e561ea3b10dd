"""What a species' predictions are held against: the scale of its targets, the weight of its tracks.

The gradient of a Poisson loss is as noisy as a track's variance exceeds its mean. Weights inverse
to that, the dispersion, are those of quasi-likelihood (Wedderburn, 1974).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.dataset.reader import SpeciesData
from spacescale.metrics.track_scale import TrackScale, nonzero_means

WINDOWS_READ = 128  # training windows evenly spread over the set
LEAST_DISPERSION = 0.2  # is added: nearly constant tracks do not take all the weight


@dataclass(frozen=True)
class Objective:
    """How the loss of one species is taken."""

    scale: TrackScale
    track_weights: Tensor | float  # (T,), as `loss.track_balance` says, or one for all

    @classmethod
    def of(cls, data: SpeciesData, loss: LossConfig, device: torch.device | str) -> Objective:
        """As configured; reads some training windows where tracks are balanced."""
        scale = TrackScale(loss.track_scale, nonzero_means(data.track_mean)).to(device)
        balance = loss.track_balance
        return cls(scale, track_weights(data, scale, balance) if balance else 1.0)


def track_weights(data: SpeciesData, scale: TrackScale, balance: float) -> Tensor:
    """Weights (T,) float32 of mean 1, on the scale's device; the same on every rank.

    balance: the power of the dispersion, 0 for equal weights to 1. A track that is constant in the
    windows read weighs 1 before all are divided by their mean.
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
    weights = torch.where(varies, (dispersion + LEAST_DISPERSION) ** -balance, 1.0)
    return (weights / weights.mean()).float()
