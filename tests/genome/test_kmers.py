"""Words of bases and their numbers."""

import numpy as np
import pytest

from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids, reverse_complement_ids


def test_a_word_is_numbered_in_base_4_where_it_begins():
    assert kmer_ids(dna.encode("ACGTNAC"), 2).tolist() == [1, 6, 11, 16, 16, 1, 16]


def test_words_longer_than_the_sequence_are_not_there():
    assert kmer_ids(dna.encode("AC"), 3).tolist() == [64, 64]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_reverse_complements_are_numbered_as_their_own_words(length):
    random = np.random.default_rng(0)
    turned = reverse_complement_ids(length)
    assert len(turned) == 4**length
    for _ in range(20):
        word = random.integers(4, size=length).astype(np.uint8)
        number, other = (kmer_ids(w, length)[0] for w in (word, dna.reverse_complement(word)))
        assert turned[number] == other
