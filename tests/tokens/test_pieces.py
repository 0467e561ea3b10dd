"""Lengths as published, and strands, drawn anew for every window and the same for ever."""

import numpy as np
import pytest

from spacescale.genome.dna import decode, encode
from spacescale.tokens.pieces import LENGTHS, Piece, draw_piece

COUNT = 4_000


@pytest.fixture(scope="module", params=["bpe", "kmer"])
def drawn(request):
    name = request.param
    return LENGTHS[name], [draw_piece(0, "yeast", n, name, LENGTHS[name]) for n in range(COUNT)]


def test_half_are_of_full_length_and_the_others_uniform(drawn):
    lengths, pieces = drawn
    found = np.array([piece.length_bp for piece in pieces])
    shorter = found[found < lengths.full_bp]
    assert len(shorter) / COUNT == pytest.approx(0.5, abs=0.03)
    assert shorter.min() < 85 and shorter.min() >= 70
    assert shorter.mean() == pytest.approx((70 + lengths.full_bp) / 2, rel=0.03)
    quarters = np.histogram(shorter, bins=4, range=(70, lengths.full_bp))[0] / len(shorter)
    assert quarters == pytest.approx([0.25] * 4, abs=0.03)


def test_pieces_lie_anywhere_in_their_window_on_either_strand(drawn):
    lengths, pieces = drawn
    assert all(0 <= p.start_bp <= lengths.full_bp - p.length_bp for p in pieces)
    room = np.array([[p.start_bp, lengths.full_bp - p.length_bp] for p in pieces], dtype=float)
    shorter = room[room[:, 1] > 0]
    assert (shorter[:, 0] / shorter[:, 1]).mean() == pytest.approx(0.5, abs=0.03)
    assert np.mean([p.reverse_complement for p in pieces]) == pytest.approx(0.5, abs=0.03)
    assert len({p.mask_seed for p in pieces}) == COUNT


def test_a_piece_is_a_function_of_seed_species_number_and_vocabulary():
    def draw(seed=0, species="yeast", n=7, name="bpe"):
        return draw_piece(seed, species, n, name, LENGTHS["bpe"])

    assert draw() == draw()
    others = [draw(seed=1), draw(species="human"), draw(n=8), draw(name="kmer")]
    assert len({piece.mask_seed for piece in (draw(), *others)}) == 5


def test_the_published_lengths():
    assert (LENGTHS["bpe"].full_bp, LENGTHS["kmer"].full_bp) == (2_300, 510)
    assert {lengths.shortest_bp for lengths in LENGTHS.values()} == {70}


def test_a_strand_is_turned_before_it_becomes_tokens():
    window = encode("AACCGGTTAC")
    assert decode(Piece(2, 5, False, 0).cut(window)) == "CCGGT"
    assert decode(Piece(2, 5, True, 0).cut(window)) == "ACCGG"


def test_a_window_that_ends_before_the_piece_is_refused():
    assert len(Piece(2, 8, False, 0).cut(encode("AACCGGTTAC"))) == 8
    with pytest.raises(AssertionError, match="shorter than those that the piece was drawn for"):
        Piece(2, 9, False, 0).cut(encode("AACCGGTTAC"))
