"""From which strands baselines predict."""

import numpy as np
import torch

from spacescale.evals.baseline_input import Strands
from spacescale.genome.dna import reverse_complement

PAIR, MEANS = np.array([1, 0, 2]), np.array([2.0, 8.0, 1.0], dtype=np.float32)


def rates(codes):
    """Not the same for both strands: three tracks over bins of 4 bp."""
    bins = torch.from_numpy(codes.astype(np.float32)).reshape(-1, 4)
    return torch.stack([bins[:, 0], bins.sum(1), bins[:, 1] * bins[:, 3]], dim=1)


def test_the_mean_of_both_strands_says_the_same_of_either():
    """In coverage, with bins reversed and each track read from its opposite strand."""
    codes = np.random.default_rng(0).integers(0, 4, 40).astype(np.uint8)
    both = Strands(PAIR, MEANS, both=True)
    coverage, of_other = (
        both.predict(rates, strand) * torch.from_numpy(MEANS)
        for strand in (codes, reverse_complement(codes))
    )
    torch.testing.assert_close(of_other.flip(0)[:, PAIR], coverage)


def test_one_strand_is_predicted_as_it_is_and_is_half_of_the_mean():
    codes = np.random.default_rng(1).integers(0, 4, 40).astype(np.uint8)
    alone = Strands(PAIR, MEANS).predict(rates, codes)
    assert torch.equal(alone, rates(codes))
    other = 2 * Strands(PAIR, MEANS, both=True).predict(rates, codes) - alone
    stored = rates(reverse_complement(codes)) * torch.from_numpy(MEANS)
    torch.testing.assert_close(other * torch.from_numpy(MEANS), stored.flip(0)[:, PAIR])
