"""Sets of intervals against sets of bases."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spacescale.genome.stretches import Stretches

INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=8)


def covered(intervals) -> Stretches:
    starts, lengths = np.array(intervals, dtype=np.int64).reshape(-1, 2).T
    return Stretches.covered_by(starts, starts + lengths)


def bases(stretches) -> set[int]:
    pairs = list(zip(stretches.starts.tolist(), stretches.ends.tolist(), strict=True))
    assert all(before[1] < after[0] for before, after in pairwise(pairs))
    return {base for start, end in pairs for base in range(start, end)}


@given(INTERVALS, INTERVALS)
def test_without_and_joined(first, second):
    a, b = covered(first), covered(second)
    assert bases(a.without(b)) == bases(a) - bases(b)
    assert bases(a.joined(b)) == bases(a) | bases(b)


@given(INTERVALS, st.integers(0, 5), st.integers(-3, 20), st.integers(0, 30))
def test_widened_and_mask(intervals, by, start, length):
    a = covered(intervals)
    near = {base + step for base in bases(a) for step in range(-by, by + 1)}
    assert bases(a.widened(by)) == {base for base in near if base >= 0}
    inside = [base in bases(a) for base in range(start, start + length)]
    assert a.mask(start, start + length).tolist() == inside
