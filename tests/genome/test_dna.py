import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacescale.errors import UserError
from spacescale.genome import dna


def test_codes_follow_the_base_order():
    assert dna.encode("ACGTNacgtn").tolist() == [0, 1, 2, 3, 4] * 2


def test_letters_come_back_in_upper_case():
    assert dna.decode(dna.encode("ACGTNacgtn")) == "ACGTN" * 2


def test_u_is_t_and_x_a_hard_mask_however_much_of_it_there_is():
    assert dna.encode("ACGUu").tolist() == [0, 1, 2, 3, 3]
    codes, num_read_as_n = dna.encode_counting("X" * 90 + "ACGTx" * 2)
    assert (codes == dna.N).sum() == num_read_as_n == 92


def test_ambiguity_letters_become_n_and_are_counted():
    codes, num_ambiguous = dna.encode_counting("ACGTACGTACGTACGR")
    assert codes[-1] == dna.N
    assert num_ambiguous == 1


@pytest.mark.parametrize("letter", list("*-.!1 J\0"))
def test_other_characters_are_refused_with_their_position(letter):
    with pytest.raises(UserError, match=r"chr1:5 has"):
        dna.encode("ACGT" + letter + "ACGT" * 5, "chr1")


@pytest.mark.parametrize("protein", ["MKVLATGGHWQ", "MKVLATGGHWQ*", "HYHYKMSSDDVVRRWW"])
def test_protein_is_told(protein):
    with pytest.raises(
        UserError, match=r"p1: .* % of the letters are not ACGTN; is this a protein"
    ):
        dna.encode(protein, "p1")


def test_reverse_complement():
    assert dna.reverse_complement(dna.encode("AACGN")).tolist() == dna.encode("NCGTT").tolist()


@given(st.text("ACGTN"))
def test_reverse_complement_twice_is_the_same(text):
    codes = dna.encode(text)
    assert np.array_equal(dna.reverse_complement(dna.reverse_complement(codes)), codes)
