"""What a model predicts of each track: stored values, multiples of a mean, or their log1p.

Shapes: B windows, N bins, T tracks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spacescale.config import TrackScaleName

PREDICTS: dict[TrackScaleName, str] = {
    "mean": "multiples of each track's training mean",
    "log1p": "log1p of multiples of each track's training mean",
    "none": "stored values",
}


def nonzero_means(track_mean: np.ndarray) -> Tensor:
    """Track means (T,) float32 to divide by: over training, or 1 for a track without signal."""
    mean = torch.from_numpy(np.asarray(track_mean, dtype=np.float32))
    return torch.where(mean > 0, mean, torch.ones_like(mean))


@dataclass(frozen=True)
class TrackScale:
    """The scale of one species' targets and predictions in training, and the way back.

    `means` are those of `nonzero_means`, float32 (T,), on the device of what is given.
    """

    name: TrackScaleName
    means: Tensor

    def to(self, device: torch.device | str) -> TrackScale:
        """The same on another device."""
        return replace(self, means=self.means.to(device))

    def targets(self, stored: Tensor) -> Tensor:
        """Stored values (B, N, T) as they are trained on, float32; NaN stays NaN.

        Of log1p, values below 0 are taken as 0.
        """
        if self.name == "none":
            return stored.float()
        multiples = self.in_means(stored)
        return multiples.clamp(min=0).log1p() if self.name == "log1p" else multiples

    def in_means(self, stored: Tensor) -> Tensor:
        """Stored values (B, N, T) in multiples of the track's mean, float32."""
        return stored.float() / self.means

    def predicted_in_means(self, prediction: Tensor) -> Tensor:
        """A model's predictions (B, N, T) in multiples of the track's mean."""
        if self.name == "none":
            return prediction / self.means
        return prediction.expm1() if self.name == "log1p" else prediction

    def predicted_stored(self, prediction: Tensor) -> Tensor:
        """A model's predictions (B, N, T) as values that the data set stores.

        In these two strands of a pair can change places, whose means differ.
        """
        return self.predicted_in_means(prediction) * self.means
