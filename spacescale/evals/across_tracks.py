"""How well a model tells tracks apart at one place: correlation across the tracks of an assay.

A correlation along the genome is won by what all tracks share, such as which elements are active
anywhere. At each bin the predictions of an assay's tracks are held against their targets instead,
both log1p of multiples of the track mean, and the bins' correlations averaged. Bins where either
side is the same in all tracks, or a track was not measured, do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST_TRACKS = 3
_LEAST_DEVIATION = 1e-3  # of the values across tracks; below it a correlation is of rounding


class AcrossTracks:
    """Addable sums of one species' assays; T tracks, A assays of FEWEST_TRACKS or more."""

    def __init__(self, assays: Sequence[str], device: torch.device | str = "cpu"):
        self.assays = list(assays)
        self.columns = {
            assay: [i for i, of in enumerate(self.assays) if of == assay]
            for assay in sorted(set(assays))
            if self.assays.count(assay) >= FEWEST_TRACKS
        }
        # Of the correlations, and the number of bins, float64 (2, A).
        self._sums = torch.zeros(2, len(self.columns), dtype=torch.float64, device=device)

    def __add__(self, other: AcrossTracks) -> AcrossTracks:
        both = AcrossTracks(self.assays)
        both._sums = self._sums + other._sums
        return both

    def cpu(self) -> AcrossTracks:
        """The same on the CPU."""
        there = AcrossTracks(self.assays)
        there._sums = self._sums.cpu()
        return there

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add bins (…, T), in multiples of the track mean."""
        for place, columns in enumerate(self.columns.values()):
            x, y = (part[..., columns].clamp(min=0).log1p() for part in (prediction, target))
            x, y = (part - part.mean(-1, keepdim=True) for part in (x, y))
            deviations = [(part * part).mean(-1).sqrt() for part in (x, y)]
            counted = (deviations[0] > _LEAST_DEVIATION) & (deviations[1] > _LEAST_DEVIATION)
            r = (x * y).mean(-1) / (deviations[0] * deviations[1])
            self._sums[0, place] += torch.where(counted, r, 0).sum(dtype=torch.float64)
            self._sums[1, place] += counted.sum()

    def pearson(self) -> dict[str, float]:
        """Assay → mean correlation; NaN where no bin counted."""
        total, bins = self._sums
        return dict(zip(self.columns, (total / bins).tolist(), strict=True))
