"""How well replicates predict each other: about the most that a model can be asked for.

Tracks with the same word in the column `replicate` of the targets table are replicates of one
experiment. Each is predicted by the mean of the others, on the model's scale. With few of them that
mean is noisy itself, so that a good model may come out above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spacescale.dataset.reader import SpeciesData
from spacescale.genome.text_files import is_missing
from spacescale.genome.tracks import Track

COLUMN = "replicate"


def groups(tracks: Sequence[Track]) -> dict[int, list[int]]:
    """Track → the other replicates of its experiment, of the tracks that have some."""
    words = [track.extra.get(COLUMN, "").strip() for track in tracks]
    found = {
        i: [j for j, other in enumerate(words) if j != i and other == word]
        for i, word in enumerate(words)
        if not is_missing(word)
    }
    return {i: others for i, others in found.items() if others}


class Replicates:
    """Predicts each track from the targets of its replicates.

    track_means: (T,), what targets are divided by.
    """

    name = "replicates"

    def __init__(self, data: SpeciesData, track_means: Tensor):
        self.data, self.track_means = data, track_means
        self.groups = groups(data.tracks)

    def predict(self, rows: Sequence[int]) -> Tensor:
        """Predict windows: float32 (B, N, T), in multiples of the track mean.

        NaN for tracks without replicates, the mean where none of them was measured.
        """
        targets = torch.from_numpy(np.stack([self.data.targets(row) for row in rows])).float()
        targets = targets / self.track_means
        found = torch.full_like(targets, torch.nan)
        for track, others in self.groups.items():
            found[..., track] = targets[..., others].nanmean(-1).nan_to_num(1.0)
        return found
