"""Base codes in memory at two bits each, so that many genomes fit beside each other."""

from dataclasses import dataclass

import numpy as np

from spacescale.genome import dna
from spacescale.genome.stretches import Stretches

_SHIFTS = np.array([6, 4, 2, 0], dtype=np.uint8)
# The codes of each byte: four bases of two bits, the first in the highest bits.
_QUARTETS = np.arange(256, dtype=np.uint8)[:, None] >> _SHIFTS & 3


@dataclass(frozen=True)
class PackedBases:
    """Base codes of `size` bases. quartets: uint8 [size / 4, rounded up]; unknown: runs of N."""

    size: int
    quartets: np.ndarray
    unknown: Stretches

    @classmethod
    def of(cls, codes: np.ndarray) -> "PackedBases":
        """Pack codes, uint8 [L], of A0 C1 G2 T3 N4."""
        quartets = np.zeros(-(-codes.size // 4), dtype=np.uint8)
        for place, shift in enumerate(_SHIFTS):
            bases = codes[place::4]
            quartets[: bases.size] |= (bases & 3) << shift
        is_unknown = np.zeros(codes.size + 2, dtype=bool)
        np.equal(codes, dna.N, out=is_unknown[1:-1])
        edges = np.flatnonzero(is_unknown[1:] != is_unknown[:-1])
        return cls(codes.size, quartets, Stretches(edges[::2], edges[1::2]))

    def codes(self, start: int, end: int) -> np.ndarray:
        """Return the codes from `start` to `end`, uint8 [end − start], a new array."""
        first = start // 4
        codes = _QUARTETS[self.quartets[first : -(-end // 4)]].reshape(-1)
        codes = codes[start - 4 * first : end - 4 * first]
        here = slice(
            np.searchsorted(self.unknown.ends, start, side="right"),
            np.searchsorted(self.unknown.starts, end),
        )
        for begin, stop in zip(self.unknown.starts[here], self.unknown.ends[here], strict=True):
            codes[max(begin - start, 0) : stop - start] = dna.N
        return codes
