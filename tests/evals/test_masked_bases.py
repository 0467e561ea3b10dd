import numpy as np
import pytest
from small_datasets import LENGTHS, small_genome, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.evals.masked_bases import BaseCounts
from spacescale.genome import dna


def data_of(folder, genome):
    return SpeciesData.open(write_small_dataset(folder / "finch", genome=genome))


def test_counts_are_those_of_both_strands_of_what_trains(tmp_path):
    genome = small_genome()
    counts = BaseCounts.of(data_of(tmp_path, genome), reach=1)
    train = dna.decode(genome[0][: LENGTHS["chrI"] // 128 * 128])
    strands = [train, dna.decode(dna.reverse_complement(dna.encode(train)))]
    for left, right in (("A", "C"), ("T", "T"), ("G", "A")):
        seen = [
            1 + sum(text[i - 1 : i + 2] == left + base + right for text in strands
                    for i in range(1, len(text) - 1))
            for base in "ACGT"
        ]  # fmt: skip
        found = counts.log_probabilities["ACGT".index(left), "ACGT".index(right)]
        assert np.exp(found) == pytest.approx(np.array(seen) / sum(seen), rel=1e-5)


def test_each_base_is_looked_up_between_its_neighbours(tmp_path):
    counts = BaseCounts.of(data_of(tmp_path, small_genome()), reach=2)
    codes = dna.encode("ACGTTNACGGA")
    found = counts.of_window(codes)
    assert found.shape == (11, 4)
    assert np.exp(found).sum(1) == pytest.approx(np.ones(11), rel=1e-5)
    left, right = 4 * dna.A + dna.C, 4 * dna.T + dna.T
    assert np.array_equal(found[2], counts.log_probabilities[left, right])
    composition = counts.log_probabilities[-1, -1]
    for place in (0, 1, 3, 4, 6, 7, 9, 10):  # an N or an end is near
        assert np.array_equal(found[place], composition), place


def test_a_genome_that_repeats_itself_is_foreseen(tmp_path):
    genome = [np.resize(dna.encode("AACCGTAGTC"), n) for n in LENGTHS.values()]
    counts = BaseCounts.of(data_of(tmp_path, genome))
    codes = genome[2][:200]
    found = np.exp(counts.of_window(codes))[4:-4]
    assert found[np.arange(len(found)), codes[4:-4]].min() > 0.9
