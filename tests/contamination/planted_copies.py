"""Copies of stretches of a genome, altered so that a given share of their bases stays."""

import numpy as np

from spacescale.contamination.search import FLANK, Chunk
from spacescale.genome import dna

CHUNK_BP = 2**20


def random_genome(bp: int, gc: float = 0.5, seed: int = 0) -> np.ndarray:
    """Independent bases, codes uint8."""
    shares = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return np.random.default_rng(seed).choice(4, bp, p=shares).astype(np.uint8)


def altered(
    codes: np.ndarray, identity: float, gaps: bool, random: np.random.Generator
) -> np.ndarray:
    """A copy with so many edits: substitutions, or of five edits one base inserted or deleted."""
    edits = round(codes.size * (1 - identity))
    shifts = edits // 5 if gaps else 0
    copy = codes.copy()
    places = random.choice(codes.size, edits - shifts, replace=False)
    copy[places] = (copy[places] + random.integers(1, 4, places.size)) % 4
    for _ in range(shifts):
        place = int(random.integers(copy.size))
        insert = random.random() < 0.5
        copy = np.insert(copy, place, random.integers(4)) if insert else np.delete(copy, place)
    return copy.astype(np.uint8)


def either_strand(codes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """It, or its reverse complement."""
    return dna.reverse_complement(codes) if random.random() < 0.5 else codes


def chunks_of(genome: np.ndarray, kind: int = 0, bp: int = CHUNK_BP) -> list[Chunk]:
    """All of a genome."""
    padded = np.pad(genome, FLANK, constant_values=dna.N)
    return [
        Chunk(padded[start : min(start + bp, genome.size) + 2 * FLANK], kind)
        for start in range(0, genome.size, bp)
    ]
