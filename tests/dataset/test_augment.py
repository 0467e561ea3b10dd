import numpy as np
import pytest

from spacescale.dataset.augment import flip
from spacescale.genome.dna import encode

STRAND_PAIR = np.array([1, 0, 2])  # plus, minus, unstranded


def test_flip_complements_reverses_and_swaps_strands():
    targets = np.array([[1, 10, 100], [2, 20, 200]], dtype=np.float16)
    codes, flipped = flip(encode("AACGN"), targets, STRAND_PAIR)
    assert np.array_equal(codes, encode("NCGTT"))
    assert flipped.tolist() == [[20, 2, 200], [10, 1, 100]]
    assert codes.dtype == np.uint8 and flipped.dtype == np.float16


@pytest.mark.parametrize("strand_pair", [[0, 1, 2, 3], [1, 0, 3, 2], [3, 1, 2, 0]])
def test_flipping_twice_changes_nothing(strand_pair):
    rng = np.random.default_rng(0)
    codes, targets = rng.integers(0, 5, 50).astype(np.uint8), rng.random((7, 4))
    pair = np.array(strand_pair)
    twice = flip(*flip(codes, targets, pair), pair)
    assert np.array_equal(twice[0], codes) and np.array_equal(twice[1], targets)


def test_flip_leaves_its_inputs_alone():
    codes, targets = encode("ACGT"), np.arange(6.0).reshape(2, 3)
    flip(codes, targets, STRAND_PAIR)
    assert np.array_equal(codes, encode("ACGT"))
    assert np.array_equal(targets, np.arange(6.0).reshape(2, 3))
