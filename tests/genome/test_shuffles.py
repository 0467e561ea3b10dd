"""Shuffles keep dinucleotides and are all equally likely."""

from collections import Counter

import numpy as np
import pytest

from spacescale.genome.dna import encode
from spacescale.genome.shuffles import dinucleotide_shuffle


def pairs(codes):
    return Counter(zip(codes[:-1].tolist(), codes[1:].tolist(), strict=True))


@pytest.mark.parametrize("text", ["A", "AC", "ACGTN", "AAAA", "CGCGCGATTANNNTACGT", "ACAGAT"])
def test_dinucleotides_and_ends_are_kept(text):
    codes = encode(text)
    for seed in range(20):
        found = dinucleotide_shuffle(codes, np.random.default_rng(seed))
        assert found.dtype == np.uint8 and pairs(found) == pairs(codes)
        assert (found[0], found[-1]) == (codes[0], codes[-1])


def test_a_long_sequence_is_really_shuffled():
    codes = np.random.default_rng(0).integers(0, 4, 500).astype(np.uint8)
    found = dinucleotide_shuffle(codes, np.random.default_rng(1))
    assert pairs(found) == pairs(codes)
    assert (found == codes).mean() < 0.5


def test_all_orders_are_equally_likely():
    # A is followed by C, G and T, each of which leads back: 3! orders of ACAGATA.
    random = np.random.default_rng(0)
    codes = encode("ACAGATA")
    counts = Counter(dinucleotide_shuffle(codes, random).tobytes() for _ in range(6000))
    assert len(counts) == 6
    assert all(850 < number < 1150 for number in counts.values())


def test_ways_that_end_elsewhere_are_as_likely():
    # From A two ways to G, one over C back to A: AGAACG has its last step of A drawn with care.
    random = np.random.default_rng(0)
    codes = encode("AAACAG")
    counts = Counter(dinucleotide_shuffle(codes, random).tobytes() for _ in range(6000))
    assert len(counts) == 3  # where C stands among the three A
    assert all(1800 < number < 2200 for number in counts.values())
