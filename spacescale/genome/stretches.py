"""Sets of intervals on one contig, answered for many intervals at once. 0-based half-open, bp."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stretches:
    """The bases that at least one interval covers: starts and ends, int64, sorted and disjoint."""

    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def covered_by(cls, starts: np.ndarray, ends: np.ndarray) -> "Stretches":
        """Return the union of intervals in any order; intervals that touch become one."""
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        first = np.ones(starts.size, dtype=bool)
        first[1:] = starts[1:] > ends[:-1]
        last = np.append(first[1:], True)[: starts.size]
        return cls(starts[first].astype(np.int64), ends[last].astype(np.int64))

    def __len__(self) -> int:
        return self.starts.size

    def widened(self, by: int) -> "Stretches":
        """Return the bases within `by` bp of these, from base 0 on."""
        return Stretches.covered_by(np.maximum(self.starts - by, 0), self.ends + by)

    def joined(self, other: "Stretches") -> "Stretches":
        """Return the bases that these cover or `other` does."""
        starts = np.concatenate([self.starts, other.starts])
        return Stretches.covered_by(starts, np.concatenate([self.ends, other.ends]))

    def without(self, other: "Stretches") -> "Stretches":
        """Return the bases that these cover and `other` does not."""
        edges = np.unique(np.concatenate([self.starts, self.ends, other.starts, other.ends]))
        keep = self._cover(edges[:-1]) & ~other._cover(edges[:-1])
        return Stretches.covered_by(edges[:-1][keep], edges[1:][keep])

    def _cover(self, positions: np.ndarray) -> np.ndarray:
        """Return whether each base is covered, bool of their number."""
        if not len(self):
            return np.zeros(np.shape(positions), dtype=bool)
        at = np.searchsorted(self.starts, positions, side="right") - 1
        return (at >= 0) & (positions < self.ends[at])

    def mask(self, start: int, end: int) -> np.ndarray:
        """Return whether each base from `start` to `end` is covered, bool [end − start]."""
        return self._cover(np.arange(start, end))

    def bases_in(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return how many covered bases lie in each interval, int64 of their number."""
        return self._bases_before(ends) - self._bases_before(starts)

    def _bases_before(self, positions: np.ndarray) -> np.ndarray:
        if not self.starts.size:
            return np.zeros(np.shape(positions), dtype=np.int64)
        lengths = self.ends - self.starts
        before = np.cumsum(lengths) - lengths
        index = np.maximum(np.searchsorted(self.starts, positions, side="right") - 1, 0)
        inside = np.clip(positions - self.starts[index], 0, lengths[index])
        return before[index] + inside
