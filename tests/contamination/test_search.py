"""What is planted is found: where, on which strand, of which kind."""

import numpy as np
import pytest
from planted_copies import altered, chunks_of, random_genome

from spacescale.contamination import search as searching
from spacescale.contamination import seeds
from spacescale.contamination.search import LONGEST_PIECE, search
from spacescale.contamination.sequences import cut, join
from spacescale.genome import dna

GENOME = random_genome(60_000)


def found_in(pieces, chunks):
    return search(pieces, lambda: chunks)


@pytest.fixture(scope="module")
def copies():
    """Copies of 80 % and what they are of: (codes, place, whether reversed)."""
    random = np.random.default_rng(0)
    found = []
    for number, length in enumerate([70, 90, 200, LONGEST_PIECE] * 5):
        place = int(random.integers(GENOME.size - length))
        copy = altered(GENOME[place : place + length], 0.8, number % 3 == 0, random)
        reverse = bool(number % 2)
        found.append((dna.reverse_complement(copy) if reverse else copy, place, reverse))
    return found


@pytest.fixture(scope="module")
def found(copies):
    return found_in([copy for copy, _, _ in copies], chunks_of(GENOME, bp=7_000))


def test_copies_are_found_where_they_are_of(copies, found):
    assert found.piece.tolist() == list(range(len(copies)))
    for row, (copy, place, reverse) in enumerate(copies):
        assert found.chunk[row] * 7_000 + found.second_start[row] == pytest.approx(place, abs=40)
        assert bool(found.reverse[row]) == reverse
        assert found.first_end[row] - found.first_start[row] > 0.6 * copy.size
        assert 0.75 < found.matched[row] / found.columns[row] < 0.95


def test_how_the_genome_is_cut_into_chunks_changes_nothing(copies, found):
    whole = found_in([copy for copy, _, _ in copies], chunks_of(GENOME))
    assert whole.piece.tolist() == found.piece.tolist()
    assert (whole.second_start == found.chunk * 7_000 + found.second_start).all()
    assert whole.score.tolist() == found.score.tolist()


def test_exact_copies_are_whole_also_across_chunks():
    places = [0, 6_950, 59_900]
    pieces = [GENOME[place : place + 100] for place in places]
    found = found_in(pieces, chunks_of(GENOME, bp=7_000))
    assert (found.chunk * 7_000 + found.second_start).tolist() == places
    assert found.matched.tolist() == found.columns.tolist() == [100] * 3


def test_nothing_lies_beyond_what_is_searched():
    """A copy half of which lies in the flanks that hold N."""
    around = random_genome(200, seed=5)
    found = found_in([around], chunks_of(around[:100]))
    assert found.second_end.tolist() == [100] and found.matched.tolist() == [100]


def test_the_best_of_each_kind_is_found():
    piece = random_genome(200, seed=7)
    other = altered(piece, 0.9, False, np.random.default_rng(0))
    one = np.concatenate([random_genome(500, seed=8), piece])
    two = np.concatenate([other, random_genome(500, seed=9)])
    found = found_in([piece], [*chunks_of(one, kind=0), *chunks_of(two, kind=1)])
    assert found.kind.tolist() == [0, 1] and found.chunk.tolist() == [0, 1]
    assert found.second_start.tolist() == [500, pytest.approx(0, abs=5)]
    assert found.matched.tolist() == [200, pytest.approx(180, abs=8)]


def test_the_exact_place_is_found_among_many_that_are_alike():
    random = np.random.default_rng(0)
    repeat = random_genome(150, seed=11)
    like = [altered(repeat, 0.85, False, random) for _ in range(40)]
    genome = np.concatenate([*like, repeat, *like])
    found = found_in([repeat], chunks_of(genome))
    assert found.second_start.tolist() == [40 * 150] and found.matched.tolist() == [150]


def test_copies_of_sequences_that_are_nearly_the_same_are_found(monkeypatch):
    """Behind places by chance, of which each is one for every of the sequences."""
    monkeypatch.setattr(seeds, "MAX_HITS_OF_A_SEED", 100)
    monkeypatch.setattr(seeds, "LEAST_PLACES_OF_A_SEED", 50)
    random, element = np.random.default_rng(0), random_genome(120, seed=13)
    variants = [altered(element, 1 - 1 / element.size, False, random) for _ in range(40)]
    parts = [element[start : start + 20] for start in range(0, 101, 2)] * 4
    chance = [one for part in parts for one in (part, random.integers(0, 4, 30, dtype=np.uint8))]
    before = np.concatenate(chance)
    found = found_in(variants, chunks_of(np.concatenate([before, element, GENOME[:300]]), bp=5_000))
    assert found.piece.tolist() == list(range(40)) and (found.matched >= 118).all()
    assert (found.chunk * 5_000 + found.second_start >= before.size).all()


@pytest.mark.parametrize(
    "pieces", [[], [np.full(100, dna.N, np.uint8)], [np.empty(0, np.uint8)], [GENOME[:9]]]
)
def test_what_cannot_be_found_is_not(pieces):
    assert found_in(pieces, chunks_of(GENOME)).piece.size == 0


def test_there_may_be_nothing_to_search():
    assert found_in([GENOME[:100]], []).piece.size == 0


def test_few_candidates_at_a_time_find_the_same(copies, found, monkeypatch):
    monkeypatch.setattr(searching, "_CANDIDATES_AT_ONCE", 10)
    again = found_in([copy for copy, _, _ in copies], chunks_of(GENOME, bp=7_000))
    assert again.score.tolist() == found.score.tolist()


def test_the_pieces_of_a_long_sequence_are_joined():
    sequence = np.concatenate([GENOME[1_000:4_000], random_genome(1_000, seed=12)])
    pieces = cut(sequence)
    assert max(map(len, pieces)) <= LONGEST_PIECE and sum(map(len, pieces)) == 4_000
    found = found_in(pieces, chunks_of(GENOME))
    owners, lengths = np.zeros(len(pieces), dtype=int), np.array([4_000])
    (key, hit), *none = join(found, owners, lengths, np.array([30.0])).items()
    assert key == (0, 0) and not none
    assert hit.identity == pytest.approx(1, abs=0.01) and not hit.reverse
    assert hit.aligned_bp == pytest.approx(3_000, abs=20)
    assert (hit.start, hit.end) == (1_000, pytest.approx(4_000, abs=20))
    assert join(found, owners, lengths, np.array([1000.0])) == {}


def test_pieces_are_chosen_for_the_highest_identity_that_covers_enough():
    """One exact copy and one altered copy from elsewhere."""
    like = altered(GENOME[30_000:30_500], 0.8, False, np.random.default_rng(0))
    pieces = cut(np.concatenate([GENOME[1_000:1_500], like]))
    found = found_in(pieces, chunks_of(GENOME))
    words = np.zeros(2, dtype=int), np.array([1_000]), np.array([30.0])

    def hit_of(least_bp, *identities):
        (hit,) = join(found, *words, identities, np.array([least_bp])).values()
        return hit

    exact, both = hit_of(500.0, 0.95, 0.8), hit_of(501.0, 0.95, 0.8)
    assert (exact.identity, exact.aligned_bp, exact.start, exact.end) == (1, 500, 1_000, 1_500)
    assert 0.85 < both.identity < 0.95 and both.aligned_bp > 900
    assert hit_of(501.0, 0.95) == both == join(found, *words)[0, 0]
