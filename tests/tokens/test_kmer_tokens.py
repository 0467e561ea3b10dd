"""k-mers in the order of published tables, and those of a sequence."""

import numpy as np

from spacescale.genome.dna import encode
from spacescale.tokens.kmers import kmer_numbers, kmer_words


def test_words_stand_in_the_published_order():
    words = kmer_words(6)
    assert words[:6] == ["AAAAAA", "AAAAAT", "AAAAAC", "AAAAAG", "AAAATA", "AAAATT"]
    assert words[-1] == "GGGGGG" and len(set(words)) == 4096


def test_every_k_mer_of_a_sequence_has_the_number_of_its_word():
    sequence = "".join(np.random.default_rng(0).choice(list("ACGT"), 60))
    words = kmer_words(3)
    found = [words[number] for number in kmer_numbers(encode(sequence), 3)]
    assert found == [sequence[i : i + 3] for i in range(58)]


def test_a_k_mer_with_an_unknown_base_is_the_one_after_the_last():
    assert (kmer_numbers(encode("ACGTNACGT"), 3) == 64).tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_a_sequence_shorter_than_a_k_mer_has_none():
    assert kmer_numbers(encode("ACGTA"), 6).tolist() == []
