"""Seeds: places of two texts that agree in the bases that a pattern looks at.

A seed that skips some bases survives substitutions that break every run of as many bases, so that
few patterns find nearly all copies of 80 % identity (PatternHunter: Ma, Tromp, Li 2002). These were
chosen together, by random search, for copies of 70 bp with substitutions and with insertions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spacescale.genome import dna

WEIGHT = 12  # bases that a pattern looks at
PATTERNS = ("11111011101111", "111100110101001111", "110101111110111", "1111101100001101011")
SPAN = max(map(len, PATTERNS))
WORD = 32  # bases of a word
# Repeats: more tell nothing new, and there is no end of them. Hits are pairs of places, of which
# texts that say one thing many times make many; places are those in what is searched, of which a
# seed has 180 by chance in 3 Gb, however many of the texts share it.
MAX_HITS_OF_A_SEED, LEAST_PLACES_OF_A_SEED = 20_000, 2_000
MOST_TIMES_IN_TEXT = 2**17  # above it lie runs of few bases, not copies of a sequence
_HITS_AT_ONCE = 2**20
_PAIRS = np.uint64(0x5555555555555555)
_FOURS = np.uint64(0x3333333333333333)
_BYTES = np.uint64(0x0F0F0F0F0F0F0F0F)
_SUM = np.uint64(0x0101010101010101)


def seed_values(codes: np.ndarray, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Places, int64, at which a pattern sees no N, and what it sees there, int32 below 4^WEIGHT.

    codes: uint8 (L,).
    """
    count = max(codes.size - len(pattern) + 1, 0)
    values, known = np.zeros(count, dtype=np.int32), np.ones(count, dtype=bool)
    for offset in (place for place, looks in enumerate(pattern) if looks == "1"):
        seen = codes[offset : offset + count]
        values = (values << 2) | (seen & 3)
        known &= seen != dna.N
    places = np.flatnonzero(known)
    return places, values[places]


def words(codes: np.ndarray) -> np.ndarray:
    """The 32 bases from each place on, two bits each, uint64 (L,); N and the end are read as A."""
    found = np.zeros(codes.size + WORD, dtype=np.uint64)
    found[: codes.size] = np.where(codes == dna.N, 0, codes)
    for bases in (1, 2, 4, 8, 16):
        found[:-bases] |= found[bases:] << np.uint64(2 * bases)
    return found[: codes.size]


def matches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many of their 32 bases two words share, uint64, element by element."""
    other = a ^ b
    other = (other | other >> np.uint64(1)) & _PAIRS
    other = (other & _FOURS) + (other >> np.uint64(2) & _FOURS)
    other = (other + (other >> np.uint64(4))) & _BYTES
    return np.uint64(WORD) - (other * _SUM >> np.uint64(56))


class SeedTable:
    """Where in a text, uint8 (M,), a pattern sees what; M below 2^31.

    A seed that occurred at LEAST_PLACES_OF_A_SEED places, and gave MAX_HITS_OF_A_SEED hits, gives
    no more: it lies in a repeat, of which the hits so far are examples. So the work is bounded by
    the length of the text, and a seed that many sequences share is looked at as far as others.
    """

    def __init__(self, text: np.ndarray, pattern: str):
        self.pattern = pattern
        places, values = seed_values(text, pattern)
        both = np.sort(values.astype(np.int64) << 31 | places)
        values, self._places = (both >> 31).astype(np.int32), (both & 2**31 - 1).astype(np.int32)
        firsts = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: values.size])
        counts = np.diff(firsts, append=values.size)
        counts[counts > MOST_TIMES_IN_TEXT] = 0
        self._starts = np.zeros(4**WEIGHT, dtype=np.int32)
        self._counts = np.zeros(4**WEIGHT, dtype=np.int32)
        self._starts[values[firsts]], self._counts[values[firsts]] = firsts, counts
        self._met = np.zeros(4**WEIGHT, dtype=np.int32)  # places at which each gave hits

    def hits(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of places in codes, uint8 (L,), and in the text that see the same, int64 (H,) each.

        About a million at a time.
        """
        places, values = seed_values(codes, self.pattern)
        counts = self._counts[values]
        some = np.flatnonzero(counts)
        total = np.cumsum(counts[some], dtype=np.int64)
        cuts = np.arange(_HITS_AT_ONCE, total[-1] if some.size else 0, _HITS_AT_ONCE)
        for part in np.split(some, np.searchsorted(total, cuts)):
            if part.size:
                yield self._expand(places[part], values[part])

    def _expand(self, places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = self._counts[values].astype(np.int64)  # fewer than before, where seeds retired
        ends = np.cumsum(counts)
        row = np.repeat(np.arange(places.size), counts)
        within = np.arange(row.size) - (ends - counts)[row]
        in_text = self._places[self._starts[values][row] + within]
        np.add.at(self._met, values, 1)
        met = self._met[values].astype(np.int64)
        enough = (met >= LEAST_PLACES_OF_A_SEED) & (met * counts >= MAX_HITS_OF_A_SEED)
        self._counts[values[enough]] = 0
        return places[row], in_text.astype(np.int64)
