"""Streaming Pearson correlation and R² per track, from moments that add.

Shapes: B windows, N bins, T tracks.

The moments are plain float64 sums, because only plain sums can be all-reduced by addition. Their
weakness is cancellation: of Σx² about (mean/sd)² is lost. Inputs are float16 or float32, so every
square and product is exact in float64 and only the additions round; at mean 1000, sd 1 the result
keeps nine digits (tests/metrics/test_regression.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Rounding leaves a variance of about 1e-14 × mean square on a constant track; below this multiple
# (a standard deviation under a millionth of the root mean square) a track counts as constant.
CONSTANT_BELOW = 1e-12


class PearsonMoments:
    """Per-track sums from which Pearson and R² follow. Targets that are NaN do not count.

    Rows of the moments, float64 [6, T]: count, Σx, Σy, Σx², Σy², Σxy; x prediction, y target.
    """

    def __init__(self, num_tracks: int, device: torch.device | str = "cpu"):
        self._sums = torch.zeros(6, num_tracks, dtype=torch.float64, device=device)

    @classmethod
    def from_tensor(cls, sums: Tensor) -> "PearsonMoments":
        """Return the moments held by a float64 [6, T] tensor, for example after an all-reduce."""
        moments = cls(sums.shape[1], sums.device)
        moments._sums += sums
        return moments

    def tensor(self) -> Tensor:
        """Return a copy of the moments, float64 [6, T]; sums over ranks are moments again."""
        return self._sums.clone()

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add predictions and targets of one shape, [..., T], of any float type, on any device.

        weight [B]: 0 leaves out a window of the first axis (padding), whatever it holds. A target
        that is NaN, not measured, is left out whatever was predicted.
        """
        x, y = prediction.detach().double(), target.detach().double()
        kept = ~y.isnan()
        if weight is not None:
            kept &= (weight > 0).to(y.device).view(-1, *[1] * (y.ndim - 1))
        x, y, counts = (torch.where(kept, part, 0.0) for part in (x, y, torch.ones_like(y)))
        parts = [counts, x, y, x * x, y * y, x * y]
        self._sums += torch.stack([part.flatten(0, -2).sum(0) for part in parts]).to(self._sums)

    def __add__(self, other: "PearsonMoments") -> "PearsonMoments":
        return PearsonMoments.from_tensor(self._sums + other._sums)

    def pearson(self) -> Tensor:
        """Return Pearson's r per track, float64 [T]; NaN where the target is constant or all NaN.

        A constant prediction knows nothing of a target that is not: its r is 0.
        """
        count, x, y, xx, yy, xy = self._sums
        covariance = xy - x * y / count
        of_x, of_y = _squared_deviations(count, x, xx), _squared_deviations(count, y, yy)
        r = (covariance / (of_x.sqrt() * of_y.sqrt())).clamp(-1.0, 1.0)
        return torch.where(of_x.isnan() & x.isfinite() & ~of_y.isnan(), 0.0, r)

    def measured(self) -> Tensor:
        """Return whether any target of each track counted, bool [T]."""
        return self._sums[0] > 0

    def r2(self) -> Tensor:
        """Return 1 − Σ(y − x)² / Σ(y − ȳ)² per track, float64 [T]; NaN for constant targets."""
        count, _, y, xx, yy, xy = self._sums
        return 1.0 - (xx - 2.0 * xy + yy) / _squared_deviations(count, y, yy)


def _squared_deviations(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """Return Σ(x − x̄)², NaN where x is constant."""
    spread = squares - total * total / count
    return torch.where(spread > CONSTANT_BELOW * squares, spread, torch.nan)


@dataclass(frozen=True)
class AssayPearson:
    """Pearson over the tracks of one assay."""

    mean: float  # over the tracks that have one; NaN if none does
    tracks: int


def summarise_by_assay(pearson: Tensor, assays: Sequence[str]) -> dict[str, AssayPearson]:
    """Group per-track values [T] by the tracks' assays (T of them), in sorted order."""
    groups: dict[str, list[float]] = {assay: [] for assay in sorted(set(assays))}
    for assay, value in zip(assays, pearson.tolist(), strict=True):
        groups[assay].append(value)
    return {
        assay: AssayPearson(float(torch.tensor(values).nanmean()), len(values))
        for assay, values in groups.items()
    }
