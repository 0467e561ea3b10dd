"""Words of bases as numbers: base 4, the first base first, so that of k bases there are 4**k."""

import numpy as np

from spacescale.genome import dna


def kmer_ids(codes: np.ndarray, length: int) -> np.ndarray:
    """Number of the word that begins at each position, int64 (L,); 4**length if it has an N."""
    padded = np.concatenate([codes, np.full(length - 1, dna.N, dtype=np.uint8)])
    ids, known = np.zeros(len(codes), dtype=np.int64), np.ones(len(codes), dtype=bool)
    for place in range(length):
        base = padded[place : place + len(codes)]
        ids = 4 * ids + base
        known &= base < dna.N
    return np.where(known, ids, 4**length)


def reverse_complement_ids(length: int) -> np.ndarray:
    """Number of the reverse complement of each word, int64 (4**length,)."""
    words, turned = np.arange(4**length), np.zeros(4**length, dtype=np.int64)
    for _ in range(length):
        turned = 4 * turned + (dna.T - words % 4)  # the complement of a base is 3 minus it
        words //= 4
    return turned
