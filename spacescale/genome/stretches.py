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

    def without(self, others: "Stretches") -> "Stretches":
        """Return what is left of them when the bases that others cover are taken away."""
        edges = np.unique(np.concatenate([self.starts, self.ends, others.starts, others.ends]))
        starts, ends = edges[:-1], edges[1:]
        kept = (self.bases_in(starts, ends) > 0) & (others.bases_in(starts, ends) == 0)
        return self.covered_by(starts[kept], ends[kept])

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
