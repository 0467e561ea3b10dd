"""Ridge regressions on the bases around a bin: what seconds of fitting give without a model.

Shapes: N bins of a window, F features, T tracks. Fitted to log1p of targets in multiples of the
track's training mean, the scale on which models are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spacescale.dataset.reader import SpeciesData
from spacescale.evals.baseline_input import Strands, bases_around
from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids

FLANK_BP = 128  # on either side of a bin, at least; a bin's length where that is more
MOST_BINS = {"train": 1_000_000, "valid": 250_000}  # more change nothing in so few coefficients
BINS_AT_ONCE = 8192
PENALTIES = np.logspace(-4, 1, 11)  # in units of the number of bins, features of deviation 1


@dataclass(frozen=True)
class Features:
    """What is counted in a bin and in the flanks on both sides of it.

    ids: codes, uint8 (L,) → the id of what begins at each position, int64 (L,), below `kinds`;
    `kinds` itself where there is nothing to count.
    """

    name: str
    kinds: int
    ids: Callable[[np.ndarray], np.ndarray]

    def of_row(self, data: SpeciesData, row: int) -> np.ndarray:
        """Count in the bins of a row's target: float32 (N, 3 x kinds)."""
        return self.of_window(_codes(data, row), data.bin_size)

    def of_window(self, codes: np.ndarray, bin_size: int) -> np.ndarray:
        """Count in the bin, left and right of it: float32 (N, 3 x kinds).

        codes: uint8, the target's bins with `flank_bins` more on either side.
        """
        flank = flank_bins(bin_size)
        bins = len(codes) // bin_size
        at = np.repeat(np.arange(bins), bin_size) * (self.kinds + 1) + self.ids(codes)
        counts = np.bincount(at, minlength=bins * (self.kinds + 1))
        counts = counts.reshape(bins, self.kinds + 1)[:, :-1]
        sums = np.concatenate([np.zeros_like(counts[:1]), counts.cumsum(0)])
        beside = sums[flank:] - sums[:-flank]  # of `flank` bins from each bin on
        own = counts[flank : bins - flank]
        return np.concatenate(
            [own, beside[: len(own)], beside[flank + 1 :][: len(own)]], axis=1, dtype=np.float32
        )


def kmers(length: int) -> Features:
    """Words of so many bases."""
    return Features(f"{length}-mer ridge", 4**length, partial(kmer_ids, length=length))


def gc_ids(codes: np.ndarray) -> np.ndarray:
    """0 at each G or C, int64 (L,); 1, which is not counted, elsewhere."""
    return np.where((codes == dna.G) | (codes == dna.C), 0, 1)


KMERS = kmers(4)
GC = Features("GC", 1, gc_ids)


def flank_bins(bin_size: int) -> int:
    """Length of a flank in bins."""
    return -(-FLANK_BP // bin_size)


@dataclass(frozen=True)
class LinearBaseline:
    """A fitted ridge regression; coefficients float32 (F, T), intercept (T,)."""

    data: SpeciesData
    features: Features
    strands: Strands
    coefficients: np.ndarray
    intercept: np.ndarray

    @property
    def name(self) -> str:
        """As printed above its scores."""
        return self.features.name

    def predict(self, rows: Sequence[int]) -> Tensor:
        """Predict windows: float32 (B, N, T), in multiples of the track mean."""
        windows = [_codes(self.data, row) for row in rows]
        return torch.stack([self.strands.predict(self._rates, codes) for codes in windows])

    def _rates(self, codes: np.ndarray) -> Tensor:
        counts = self.features.of_window(codes, self.data.bin_size)
        return torch.from_numpy(counts @ self.coefficients + self.intercept).expm1()


def _codes(data: SpeciesData, row: int) -> np.ndarray:
    return bases_around(data, row, flank_bins(data.bin_size))


@dataclass
class _Moments:
    """Sums over bins from which a ridge follows for any penalty, float64, with a feature 1 first.

    xx (F+1, F+1), xy (F+1, T), x_unmeasured (F+1, T), sums over the bins where a track was not
    measured, y and measured (T,): sum and number of the targets.
    """

    xx: np.ndarray
    xy: np.ndarray
    x_unmeasured: np.ndarray
    y: np.ndarray
    measured: np.ndarray

    def add(self, x: np.ndarray, targets: np.ndarray) -> None:
        """Add bins: float32 (N, F+1) and (N, T), in multiples of the track mean."""
        unmeasured = np.isnan(targets)
        y = np.where(unmeasured, 0, np.log1p(np.maximum(targets, 0)))
        self.xx += x.T @ x
        self.xy += x.T @ y
        if unmeasured.any():
            self.x_unmeasured += x.T @ unmeasured.astype(np.float32)
        self.y += y.sum(axis=0, dtype=np.float64)
        self.measured += (~unmeasured).sum(axis=0)

    def centred(self, y_mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means of the features (F,), their covariance (F, F), and that with the targets (F, T).

        Unmeasured targets count as `y_mean` (T,): one matrix then serves all tracks.
        """
        bins = self.xx[0, 0]
        x_mean = self.xx[0, 1:] / bins
        xy = self.xy + self.x_unmeasured * y_mean
        covariance = self.xx[1:, 1:] / bins - np.outer(x_mean, x_mean)
        return x_mean, covariance, (xy[1:] - np.outer(x_mean, xy[0])) / bins


def fit_ridge(data: SpeciesData, features: Features, strands: Strands) -> LinearBaseline:
    """Fit on training windows, each track with the penalty that is best on validation windows.

    Of large data sets so many evenly spaced windows are read as hold MOST_BINS. Memory does not
    grow with the data.
    """
    train = _moments(data, features, strands.means, "train")
    y_mean = train.y / np.maximum(train.measured, 1)
    x_mean, covariance, with_targets = train.centred(y_mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    rotated = vectors.T @ (with_targets * scale[:, None])
    candidates = (
        scale[:, None] * (vectors @ (rotated / (np.maximum(values, 0) + penalty)[:, None]))
        for penalty in PENALTIES
    )
    if data.manifest.num_windows.get("valid"):
        valid = _moments(data, features, strands.means, "valid")
        coefficients = _best(candidates, valid, y_mean)
    else:
        coefficients = list(candidates)[len(PENALTIES) // 2]
    return LinearBaseline(
        data,
        features,
        strands,
        coefficients.astype(np.float32),
        (y_mean - x_mean @ coefficients).astype(np.float32),
    )


def _best(candidates: Iterable[np.ndarray], valid: _Moments, y_mean: np.ndarray) -> np.ndarray:
    """Of each track the coefficients with the highest correlation on validation windows."""
    _, covariance, with_targets = valid.centred(y_mean)
    best, chosen = np.full(len(y_mean), -np.inf), None
    for coefficients in candidates:
        spread = np.sqrt(np.einsum("ft,ft->t", coefficients, covariance @ coefficients))
        together = np.einsum("ft,ft->t", coefficients, with_targets)
        # The targets' own deviation is the same for all penalties.
        found = np.divide(together, spread, out=np.zeros_like(spread), where=spread > 0)
        chosen = coefficients if chosen is None else np.where(found > best, coefficients, chosen)
        best = np.maximum(best, found)
    assert chosen is not None
    return chosen


def _moments(
    data: SpeciesData, features: Features, track_means: np.ndarray, split: str
) -> _Moments:
    rows = data.rows(split)
    most = max(1, MOST_BINS[split] // data.target_length)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)]
    size, tracks = 3 * features.kinds + 1, len(track_means)
    sums = _Moments(
        *(np.zeros((size, width)) for width in (size, tracks, tracks)),
        *(np.zeros(tracks) for _ in range(2)),
    )
    title = f"{data.name}, {features.name}, {split}"
    at_once = max(1, BINS_AT_ONCE // data.target_length)
    with tqdm(total=len(rows), unit="window", desc=title, disable=None, leave=False) as bar:
        for first in range(0, len(rows), at_once):
            group = rows[first : first + at_once].tolist()
            counts = np.concatenate([features.of_row(data, row) for row in group])
            targets = np.concatenate([data.targets(row) for row in group]).astype(np.float32)
            sums.add(np.pad(counts, ((0, 0), (1, 0)), constant_values=1), targets / track_means)
            bar.update(len(group))
    return sums
