import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spacescale.dataset.packed_bases import PackedBases

CODES = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(CODES, st.data())
def test_what_is_packed_comes_out_again(codes, data):
    packed = PackedBases.of(np.array(codes, dtype=np.uint8))
    start = data.draw(st.integers(0, len(codes)))
    end = data.draw(st.integers(start, len(codes)))
    found = packed.codes(start, end)
    assert found.dtype == np.uint8 and found.tolist() == codes[start:end]


def test_four_bases_take_a_byte_and_a_gap_two_numbers():
    codes = np.random.default_rng(0).integers(0, 4, 4001).astype(np.uint8)
    codes[1000:3000] = 4
    packed = PackedBases.of(codes)
    assert packed.quartets.nbytes == 1001
    assert (packed.unknown.starts.tolist(), packed.unknown.ends.tolist()) == ([1000], [3000])


def test_what_is_returned_may_be_written_into():
    packed = PackedBases.of(np.array([0, 1, 2, 3, 4], dtype=np.uint8))
    packed.codes(0, 5)[:] = 3
    assert packed.codes(0, 5).tolist() == [0, 1, 2, 3, 4]
