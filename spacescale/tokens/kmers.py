"""k-mers as tokens: which there are, in what order, and those of a sequence."""

from itertools import product

import numpy as np

from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids

ORDER = "ATCG"  # of bases in tables of k-mers, since DNABERT
_RANK = np.array([*(ORDER.index(base) for base in "ACGT"), dna.N], dtype=np.uint8)


def kmer_words(length: int) -> list[str]:
    """All 4**length words of as many bases: AAA, AAT, AAC, AAG, ATA …"""
    return ["".join(letters) for letters in product(ORDER, repeat=length)]


def kmer_numbers(codes: np.ndarray, length: int) -> np.ndarray:
    """Place in `kmer_words` of every k-mer, k being `length`; 4**length of one that holds an N.

    Base codes uint8 (L,) → int64 (L − k + 1,), or none where the sequence is shorter.
    """
    return kmer_ids(_RANK[codes], length)[: max(len(codes) - length + 1, 0)]
