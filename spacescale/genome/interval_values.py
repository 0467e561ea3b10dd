"""Values on intervals of a contig, and the same base by base."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class IntervalValues:
    """Intervals of one contig that do not overlap, in ascending order, each with a value.

    starts, ends: int64 [n] in bp, 0-based half-open; values: float32 [n].
    """

    starts: np.ndarray
    ends: np.ndarray
    values: np.ndarray

    def touch(self, start: int, end: int) -> bool:
        """Tell whether any interval has a base in start to end."""
        first = np.searchsorted(self.ends, start, side="right")
        return bool(first < self.starts.size and self.starts[first] < end)

    def per_base(self, start: int, end: int, background: float) -> np.ndarray:
        """Return float32 [end - start], one value a base, `background` outside the intervals."""
        first = np.searchsorted(self.ends, start, side="right")
        last = max(first, np.searchsorted(self.starts, end, side="left"))
        edges = np.empty(2 * (last - first) + 2, dtype=np.int64)
        edges[0], edges[-1] = start, end
        np.maximum(self.starts[first:last], start, out=edges[1:-1:2])
        np.minimum(self.ends[first:last], end, out=edges[2:-1:2])
        # Gap, interval, gap, … interval, gap; a gap may be empty.
        values = np.full(edges.size - 1, background, dtype=np.float32)
        values[1::2] = self.values[first:last]
        return np.repeat(values, np.diff(edges))


def union(intervals: IntervalValues) -> IntervalValues:
    """Join intervals, sorted by start, that overlap or touch; the value is that of the first."""
    reach = np.maximum.accumulate(intervals.ends)
    first = np.flatnonzero(np.r_[True, intervals.starts[1:] > reach[:-1]])
    last = np.r_[first[1:], intervals.starts.size] - 1
    return IntervalValues(intervals.starts[first], reach[last], intervals.values[first])


def highest(intervals: IntervalValues) -> IntervalValues:
    """Cut intervals at each other's ends; a stretch that several hold gets their highest value."""
    edges = np.unique(np.concatenate([intervals.starts, intervals.ends]))
    values = np.full(edges.size - 1, -np.inf, dtype=np.float32)
    first = np.searchsorted(edges, intervals.starts)
    last = np.searchsorted(edges, intervals.ends)
    for start, end, value in zip(first, last, intervals.values, strict=True):
        np.maximum(values[start:end], value, out=values[start:end])
    held = values > -np.inf
    return IntervalValues(edges[:-1][held], edges[1:][held], values[held])
