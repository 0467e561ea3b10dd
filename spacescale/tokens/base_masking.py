"""Which bases of a window are hidden from the model, and what stands in their place.

All of it is a function of (seed, species, n), n being the number of the window among those drawn
of the species since the run began. Shapes: L bases of a window.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from spacescale.bases_config import BasesConfig, Phase
from spacescale.genome import dna

# Follows (seed, species); `sampler` has 0 and 1, `genome_windows` 2.
_STREAM = 3


@dataclass(frozen=True)
class WindowFate:
    """What becomes of a window, and the generator of its mask, which nothing else draws from."""

    untracked: bool  # read anywhere, without tracks
    masked: bool
    random: np.random.Generator


def window_fate(seed: int, species: str, n: int, phase: Phase) -> WindowFate:
    """Fate of the n-th window of a species; what is masked is so under any larger share, too."""
    random = np.random.default_rng([seed, zlib.crc32(species.encode()), _STREAM, n])
    for_tracks, for_mask = random.random(2)
    untracked = bool(for_tracks < phase.untracked)
    return WindowFate(untracked, untracked or bool(for_mask < phase.masked), random)


def hide_bases(
    codes: np.ndarray, hideable: np.ndarray, bases: BasesConfig, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide bases of a window: what the model is given, uint8 (L,), and which are hidden, bool (L,).

    codes: uint8 (L,), A0 C1 G2 T3 N4. hideable: bool (L,); N never is. What is given there is
    `dna.HIDDEN`, another base or, to be predicted all the same, the base itself: one of these for
    all of a span. A function of its arguments and the state of `random` alone, of which it takes as
    much whatever the other arguments.
    """
    size = len(codes)
    upper = bases.rate if bases.rate_up_to is None else bases.rate_up_to
    rate = bases.rate + (upper - bases.rate) * random.random()
    in_spans = rate * (1 - bases.single_share)
    owner = _spans(size, in_spans, bases.span_min, bases.span_max, random)
    # Of what no span reaches, as many as are still wanted.
    single = (owner < 0) & (random.random(size) < (rate - in_spans) / (1 - in_spans))
    owner[single] = np.flatnonzero(single)
    hidden = (owner >= 0) & hideable & (codes < dna.N)
    fate = random.random(size)[owner]
    another = (codes + random.integers(1, 4, size, dtype=np.uint8)) % 4
    masked = hidden & (fate < bases.masked_share)
    replaced = hidden & ~masked & (fate < bases.masked_share + bases.random_share)
    given = np.where(masked, np.uint8(dna.HIDDEN), np.where(replaced, another, codes))
    return given.astype(np.uint8), hidden


def _spans(
    size: int, share: float, shortest: int, longest: int, random: np.random.Generator
) -> np.ndarray:
    """Where the span that covers each base begins, int64 (L,); −1 where none does.

    Spans begin anywhere, independently, so often that they cover this share together.
    """
    begins = random.random(size) < -math.log1p(-share) / ((shortest + longest) / 2)
    lengths = random.integers(shortest, longest + 1, size)
    owner = np.full(size, -1, dtype=np.int64)
    for start in np.flatnonzero(begins):
        owner[start : start + lengths[start]] = start
    return owner
