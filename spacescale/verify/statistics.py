"""Statistics of stored targets, per track, gathered window by window and addable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacescale.genome.transforms import FLOAT16_MAX


@dataclass
class TargetStatistics:
    """What the targets of some windows are like, per track; arrays are [tracks].

    windows, bins: how many were added. measured: bins that are not NaN. nonzero: measured bins
    other than 0. saturated: bins at float16's limit. infinite: bins beyond it. total: sum of the
    finite bins, float64. smallest, largest: of the measured bins, float32, NaN where there is none.
    """

    windows: int
    bins: int
    measured: np.ndarray
    nonzero: np.ndarray
    saturated: np.ndarray
    infinite: np.ndarray
    total: np.ndarray
    smallest: np.ndarray
    largest: np.ndarray

    @classmethod
    def empty(cls, num_tracks: int) -> TargetStatistics:
        """Return the statistics of no window."""
        measured, nonzero, saturated, infinite = np.zeros((4, num_tracks), dtype=np.int64)
        smallest, largest = np.full((2, num_tracks), np.nan, dtype=np.float32)
        total = np.zeros(num_tracks)
        return cls(0, 0, measured, nonzero, saturated, infinite, total, smallest, largest)

    def add(self, targets: np.ndarray) -> None:
        """Add the targets of one window, float16 [bins, tracks]."""
        values = targets.astype(np.float32)
        measured = ~np.isnan(values)
        size = np.abs(values)
        self.windows += 1
        self.bins += len(values)
        self.measured += measured.sum(axis=0)
        self.nonzero += ((values != 0) & measured).sum(axis=0)
        self.saturated += (size == FLOAT16_MAX).sum(axis=0)
        self.infinite += np.isinf(values).sum(axis=0)
        finite = values if np.isfinite(size.max()) else np.where(np.isfinite(values), values, 0)
        self.total += finite.sum(axis=0, dtype=np.float64)
        self.smallest = np.fmin(self.smallest, np.fmin.reduce(values, axis=0))
        self.largest = np.fmax(self.largest, np.fmax.reduce(values, axis=0))

    def __add__(self, other: TargetStatistics) -> TargetStatistics:
        """Return the statistics of the windows of both."""
        return TargetStatistics(
            self.windows + other.windows,
            self.bins + other.bins,
            self.measured + other.measured,
            self.nonzero + other.nonzero,
            self.saturated + other.saturated,
            self.infinite + other.infinite,
            self.total + other.total,
            np.fmin(self.smallest, other.smallest),
            np.fmax(self.largest, other.largest),
        )

    @property
    def mean(self) -> np.ndarray:
        """Mean of the finite bins, float64 [tracks]; NaN where a track has none."""
        finite = self.measured - self.infinite
        return np.where(finite > 0, self.total / np.maximum(finite, 1), np.nan)

    @property
    def nonzero_share(self) -> np.ndarray:
        """Share of the measured bins that are not 0, float64 [tracks]; NaN where there is none."""
        return np.where(self.measured > 0, self.nonzero / np.maximum(self.measured, 1), np.nan)


@dataclass(frozen=True)
class BaseContent:
    """What the input sequences of windows are made of; arrays are float64 [windows].

    rows: rows of the dataset, int64. gc: share of G and C among the known bases, NaN where there
    is none. unknown: share of N, which is also what lies beyond the ends of a contig.
    """

    rows: np.ndarray
    gc: np.ndarray
    unknown: np.ndarray
