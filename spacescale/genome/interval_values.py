"""Values on intervals of a contig, and the same base by base."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class IntervalValues:
    """Intervals of one contig, of 1 bp or more, apart and in ascending order, each with a value.

    starts, ends: int64 or uint32 [n] in bp, 0-based half-open; values: float32 [n].
    """

    starts: np.ndarray
    ends: np.ndarray
    values: np.ndarray

    @cached_property
    def has_infinite(self) -> bool:
        """Whether any value is infinite."""
        return bool(np.isinf(self.values).any())

    @classmethod
    def joined(cls, parts: Sequence["IntervalValues"]) -> "IntervalValues":
        """Return the intervals of parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*((part.starts, part.ends, part.values) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def where(self, which: np.ndarray | slice) -> "IntervalValues":
        """Return some of the intervals, by a mask or their numbers, or as views by a slice."""
        return IntervalValues(self.starts[which], self.ends[which], self.values[which])

    def since(self, start: int) -> "IntervalValues":
        """Return the intervals that begin at `start` or after it."""
        first = np.searchsorted(self.starts, self.starts.dtype.type(start))
        return IntervalValues(self.starts[first:], self.ends[first:], self.values[first:])

    def touch(self, start: int, end: int) -> bool:
        """Tell whether any interval has a base in start to end."""
        first = np.searchsorted(self.ends, start, side="right")
        return bool(first < self.starts.size and self.starts[first] < end)

    def per_base(self, start: int, end: int, background: float) -> np.ndarray:
        """Return float32 [end - start], one value a base, `background` outside the intervals."""
        first, last = touched(self.starts, self.ends, np.array([start]), end - start)
        touching = slice(int(first[0]), int(last[0]))
        return _laid_out(self.where(touching), start, end, background)

    def per_window(self, starts: np.ndarray, width: int, background: float) -> np.ndarray:
        """Return float32 [windows, width], row by row what per_base gives.

        starts: int64 [windows], where each begins, in any order.
        """
        if (starts[1:] - starts[:-1] == width).all():
            whole = self.per_base(int(starts[0]), int(starts[-1]) + width, background)
            return whole.reshape(starts.size, width)
        first, last = touched(self.starts, self.ends, starts, width)
        counts = last - first
        after = counts.cumsum()
        touching = np.arange(after[-1]) + (first - after + counts).repeat(counts)
        found = self.where(touching)
        # Only the first interval of a window can begin before it, only the last end after it.
        held = counts > 0
        heads, tails = (after - counts)[held], after[held] - 1
        found.starts[heads] = np.maximum(found.starts[heads], starts[held])
        found.ends[tails] = np.minimum(found.ends[tails], starts[held] + width)
        # The windows are laid end to end; where 32 bits wrap around on the way it cancels out.
        shift = (np.arange(starts.size) * width - starts).astype(found.starts.dtype).repeat(counts)
        np.add(found.starts, shift, out=found.starts)
        np.add(found.ends, shift, out=found.ends)
        laid = _laid_out(found, 0, starts.size * width, background)
        return laid.reshape(starts.size, width)


def touched(
    starts: np.ndarray, ends: np.ndarray, windows: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each window the first interval that it touches, and the first one after those.

    starts, ends: of the intervals, both ascending; windows: int64, where each begins.
    """
    # A key of another type would have numpy convert all positions.
    first = np.searchsorted(ends, windows.astype(ends.dtype), side="right")
    last = np.searchsorted(starts, (windows + width).astype(starts.dtype))
    return first, last


def _laid_out(touching: IntervalValues, start: int, end: int, background: float) -> np.ndarray:
    """Return float32 [end - start], one value a base, of the intervals that touch this stretch."""
    values = touching.values
    if values.size == end - start:  # each base has an interval of its own
        return values.astype(np.float32)
    if not values.size:
        return np.full(end - start, background, dtype=np.float32)
    starts, ends = np.maximum(touching.starts, start), np.minimum(touching.ends, end)
    if starts[0] == start and ends[-1] == end and (starts[1:] == ends[:-1]).all():
        return values.repeat(ends - starts)
    # Gap, interval, gap, … interval, gap; a gap may be empty.
    lengths = np.empty(2 * values.size + 1, dtype=np.intp)
    lengths[0], lengths[-1] = starts[0] - start, end - ends[-1]
    lengths[1::2] = ends - starts
    lengths[2:-1:2] = starts[1:] - ends[:-1]
    laid = np.full(lengths.size, background, dtype=np.float32)
    laid[1::2] = values
    return laid.repeat(lengths)


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
