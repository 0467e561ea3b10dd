"""How long a stretch of which strand is read: a pure function of (seed, species, n, vocabulary)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from spacescale.genome.dna import reverse_complement
from spacescale.tokens.vocabulary import Name


@dataclass(frozen=True)
class Lengths:
    """Of sequences in bp: full_share of them are full_bp, others uniform from shortest_bp on."""

    full_bp: int
    shortest_bp: int = 70
    full_share: float = 0.5


LENGTHS: dict[Name, Lengths] = {"bpe": Lengths(2_300), "kmer": Lengths(510)}  # about 500 tokens


@dataclass(frozen=True)
class Piece:
    """What is read of a window of full length, and the seed of its masks."""

    start_bp: int
    length_bp: int
    reverse_complement: bool
    mask_seed: int

    def cut(self, window: np.ndarray) -> np.ndarray:
        """Base codes uint8 (full_bp,) → those of the piece (length_bp,), read on its strand."""
        end_bp = self.start_bp + self.length_bp
        assert end_bp <= len(window), "a window shorter than those that the piece was drawn for"
        piece = window[self.start_bp : end_bp]
        return reverse_complement(piece) if self.reverse_complement else piece


def draw_piece(seed: int, species: str, n: int, name: Name, lengths: Lengths) -> Piece:
    """The piece of the n-th window drawn of a species for a vocabulary, over all ranks.

    Every vocabulary draws for itself, so that the windows and pieces of one do not depend on
    whether another is trained beside it.
    """
    key = (zlib.crc32(text.encode()) for text in (species, name))
    random = np.random.default_rng([seed, *key, n])
    full = random.random() < lengths.full_share
    shorter = int(random.integers(lengths.shortest_bp, lengths.full_bp + 1))
    length = lengths.full_bp if full else shorter
    return Piece(
        start_bp=int(random.integers(lengths.full_bp - length + 1)),
        length_bp=length,
        reverse_complement=bool(random.random() < 0.5),
        mask_seed=int(random.integers(2**63)),
    )
