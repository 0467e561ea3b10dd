"""What each track does on average, whatever the sequence; and which of its bins are peaks.

Shapes: N bins of a window, T tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spacescale.dataset.reader import SpeciesData

PEAK_QUANTILE = 0.95
_MOST_VALUES = 50_000_000  # read for the quantiles, of evenly spaced training windows


@dataclass(frozen=True)
class MeanProfile:
    """Predicts each track's mean profile over the training windows, (N, T) in track means."""

    profile: Tensor
    name: str = "mean profile"

    def predict(self, rows: Sequence[int]) -> Tensor:
        """The same for every window: float32 (B, N, T), in multiples of the track mean."""
        return self.profile.expand(len(rows), -1, -1)


def mean_profile(data: SpeciesData) -> Tensor:
    """Each track's mean profile over the training windows, float32 (N, T), in stored units.

    A bin that was measured in no training window gets the track's mean; NaN where there is none.
    """
    if not data.manifest.num_windows.get("train"):
        return torch.full((data.target_length, len(data.tracks)), torch.nan)
    rows = data.rows("train")
    total = np.zeros((data.target_length, len(data.tracks)), dtype=np.float64)
    count = np.zeros_like(total)
    for row in rows:
        targets = data.targets(int(row))
        measured = ~np.isnan(targets)
        total[measured] += targets[measured]
        count += measured
    profile = np.where(count > 0, total / np.maximum(count, 1), data.track_mean)
    return torch.from_numpy(profile).float()


def peak_thresholds(data: SpeciesData, rows: np.ndarray) -> Tensor:
    """PEAK_QUANTILE of each track over the bins of these windows, float32 (T,), in stored units."""
    most = max(1, _MOST_VALUES // (data.target_length * len(data.tracks)))
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
    values = np.concatenate([data.targets(int(row)) for row in chosen]).astype(np.float32)
    measured = ~np.isnan(values).all(axis=0)
    found = np.full(len(data.tracks), np.nan, dtype=np.float32)
    found[measured] = np.nanquantile(values[:, measured], PEAK_QUANTILE, axis=0)
    return torch.from_numpy(found)
