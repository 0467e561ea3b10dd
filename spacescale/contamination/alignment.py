"""Alignments of many pairs of sequences at once: along one diagonal, and with gaps beside it.

A match counts +1, a mismatch −1, a gap −3 per base: where bases are equally frequent, scores that
suit an identity of 75 %. N is left aside: beside it an alignment goes on, neither better nor worse.
Local: what is best of each pair, wherever it begins and ends.

Shapes: B pairs, L bp of the longest first sequence, W diagonals to either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spacescale.genome import dna

MATCH, MISMATCH, GAP = 1, -1, -3
# The score and what it is made of, in one number: they add up together, and compare by score.
_BITS = 12
LONGEST = 2**_BITS - 1  # bp of either sequence


def _packed(score: int, matched: int, unknown: int, first: int, second: int) -> int:
    packed = score
    for number in (matched, unknown, first, second):
        packed = (packed << _BITS) + number
    return packed


_MATCH = _packed(MATCH, 1, 0, 1, 1)
_MISMATCH = _packed(MISMATCH, 0, 0, 1, 1)
_UNKNOWN = _packed(0, 0, 1, 1, 1)
_FIRST_ALONE, _SECOND_ALONE = _packed(GAP, 0, 0, 1, 0), _packed(GAP, 0, 0, 0, 1)
_ANY_SCORE = _packed(1, 0, 0, 0, 0)


@dataclass(frozen=True)
class Aligned:
    """The best local alignment of each pair, int64 (B,) each.

    columns: its length with gaps, of which `matched` hold the same base; without those `unknown`
    ones in which either sequence has N. Places in the first and in the second sequence are
    half-open.
    """

    score: np.ndarray
    matched: np.ndarray
    columns: np.ndarray
    unknown: np.ndarray
    first_start: np.ndarray
    first_end: np.ndarray
    second_start: np.ndarray
    second_end: np.ndarray

    @property
    def aligned_bp(self) -> np.ndarray:
        """Bases of the first sequence in the alignment, but for those where either has N."""
        return self.first_end - self.first_start - self.unknown


def score_by_chance(bp: int, searched_bp: int, same_by_chance: float, expected: float) -> float:
    """The score that alignments of `bp` with so many random bases reach `expected` times.

    same_by_chance: how often two bases are the same, by their frequencies; below 0.5. After Karlin
    and Altschul (1990), whose λ and K have a closed form for steps of +1 and −1; gaps left aside.
    """
    other = 1 - same_by_chance
    scale, k = math.log(other / same_by_chance), (other - same_by_chance) ** 2 / other
    return math.log(k * max(bp, 1) * max(searched_bp, 1) / expected) / scale


def _either_unknown(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two arrays of codes, uint8, hold N in one or both; bool."""
    return (first == dna.N) | (second == dna.N)


def ungapped_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The best score of a stretch without gaps, int64 (B,). first, second: codes uint8 (B, L)."""
    steps = np.where(first == second, np.int16(MATCH), np.int16(MISMATCH))
    steps[_either_unknown(first, second)] = 0
    sums = np.zeros((len(first), first.shape[1] + 1), dtype=np.int16)
    np.cumsum(steps, axis=1, out=sums[:, 1:])
    return (sums - np.minimum.accumulate(sums, axis=1)).max(axis=1).astype(np.int64)


def align(first: np.ndarray, second: np.ndarray, width: int) -> Aligned:
    """Align with gaps, within `width` diagonals of the one on which the pair begins together.

    first: codes uint8 (B, L), N where a sequence is shorter. second: uint8 (B, L + 2 · width), of
    which column `width` lies beside the first's column 0. L + 2 · width is at most LONGEST.
    """
    count, length = first.shape
    assert second.shape == (count, length + 2 * width) and length + 2 * width <= LONGEST
    band = np.arange(2 * width + 1)
    gaps = band * _SECOND_ALONE
    cells = np.zeros((count, band.size), dtype=np.int64)
    best, best_end = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    rows = np.arange(count)
    for place in range(length):
        beside = second[:, place : place + band.size]
        base = first[:, place, None]
        step = np.where(base == beside, _MATCH, _MISMATCH)
        # An alignment goes on beside N, and begins at none.
        step = np.where(_either_unknown(base, beside), _UNKNOWN * (cells >= _ANY_SCORE), step)
        new = np.maximum(cells + step, 0)
        np.maximum(new[:, :-1], cells[:, 1:] + _FIRST_ALONE, out=new[:, :-1])
        cells = np.maximum.accumulate(new - gaps, axis=1) + gaps
        top = cells.argmax(axis=1)
        value = cells[rows, top]
        better = value >> 3 * _BITS > best >> 3 * _BITS  # by score and matches: not by N behind it
        best = np.where(better, value, best)
        best_end = np.where(better, place * band.size + top, best_end)
    return _unpacked(best, best_end, band.size)


def _unpacked(best: np.ndarray, end: np.ndarray, band: int) -> Aligned:
    score, matched, unknown, first, second = (
        best >> bits * _BITS & (LONGEST if bits < 4 else -1) for bits in (4, 3, 2, 1, 0)
    )
    # The bases of both, less two for each match, mismatch and N, are the gaps.
    unmatched = first + second - 2 * (matched + unknown)
    mismatched = (score - MATCH * matched - GAP * unmatched) // (MISMATCH - 2 * GAP)
    columns = matched + unmatched - mismatched
    place, diagonal = np.divmod(end, band)
    first_end, second_end = place + 1, place + diagonal + 1
    return Aligned(
        score,
        matched,
        columns,
        unknown,
        first_end - first,
        first_end,
        second_end - second,
        second_end,
    )
