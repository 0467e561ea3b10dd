"""Sets of intervals against sets of bases."""

import numpy as np
import pytest

from spacescale.genome.stretches import Stretches


def some(random, count):
    starts = random.integers(0, 60, count)
    return Stretches.covered_by(starts, starts + random.integers(1, 12, count))


def bases(stretches):
    ends = zip(stretches.starts.tolist(), stretches.ends.tolist(), strict=True)
    return {base for start, end in ends for base in range(start, end)}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_of_stretches_without_others(seed):
    random = np.random.default_rng(seed)
    first, second = some(random, seed % 7), some(random, seed % 5)
    left = first.without(second)
    assert bases(left) == bases(first) - bases(second)
    assert (left.starts[1:] > left.ends[:-1]).all() and (left.ends > left.starts).all()
