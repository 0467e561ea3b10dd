"""Alignments of many pairs at once, held against one cell at a time."""

import math

import numpy as np
import pytest
from planted_copies import altered, random_genome

from spacescale.contamination.alignment import (
    GAP,
    MATCH,
    MISMATCH,
    align,
    score_by_chance,
    ungapped_scores,
)
from spacescale.genome import dna

WIDTH = 8


def best_score(first, second, width):
    """The score of Smith and Waterman within the band, cell by cell."""
    cells = {}
    for i, base in enumerate(first):
        for j in range(max(i, 0), min(i + 2 * width + 1, len(second))):
            step = 0 if dna.N in (base, second[j]) else MATCH if base == second[j] else MISMATCH
            cells[i, j] = max(
                0,
                cells.get((i - 1, j - 1), 0) + step,
                cells.get((i - 1, j), 0) + GAP,
                cells.get((i, j - 1), 0) + GAP,
            )
    return max(cells.values())


def pairs(identity, count=12, length=60, unknown=0.0):
    """Copies with edits, `unknown` of both sequences N."""
    random = np.random.default_rng(1)
    first, second = [], []
    for seed in range(count):
        genome = random_genome(length + 2 * WIDTH, seed=seed)
        copy = altered(genome[WIDTH : WIDTH + length], identity, True, random)
        first.append(np.resize(np.append(copy, [dna.N] * length), length))
        second.append(genome)
        for one in (first[-1], genome):
            one[random.random(one.size) < unknown] = dna.N
    return np.array(first, dtype=np.uint8), np.array(second, dtype=np.uint8)


@pytest.mark.parametrize("unknown", [0, 0.2])
@pytest.mark.parametrize("identity", [1.0, 0.9, 0.75])
def test_scores_are_those_of_smith_and_waterman(identity, unknown):
    first, second = pairs(identity, unknown=unknown)
    expected = [best_score(*pair, WIDTH) for pair in zip(first, second, strict=True)]
    assert align(first, second, WIDTH).score.tolist() == expected


@pytest.mark.parametrize("unknown", [0, 0.2])
@pytest.mark.parametrize("identity", [1.0, 0.9, 0.75])
def test_what_a_score_is_made_of_adds_up(identity, unknown):
    found = align(*pairs(identity, unknown=unknown), WIDTH)
    assert found.unknown.any() == (unknown > 0)
    bases = found.first_end - found.first_start + found.second_end - found.second_start
    bases -= 2 * found.unknown
    gaps = 2 * found.columns - bases
    mismatched = found.columns - gaps - found.matched
    assert (gaps >= 0).all() and (mismatched >= 0).all()
    scores = MATCH * found.matched + MISMATCH * mismatched + GAP * gaps
    assert scores.tolist() == found.score.tolist()
    assert identity == 1 or unknown or gaps.any()


def test_places_are_those_of_the_copy():
    genome = random_genome(80 + 2 * WIDTH)
    whole = genome[WIDTH : WIDTH + 80]
    without_three = np.append(np.delete(whole, [40, 41, 42]), [dna.N] * 3).astype(np.uint8)
    found = align(np.stack([whole, without_three]), np.stack([genome] * 2), WIDTH)
    assert found.first_start.tolist() == [0, 0] and found.first_end.tolist() == [80, 77]
    assert found.second_start.tolist() == [8, 8] and found.second_end.tolist() == [88, 88]
    assert found.matched.tolist() == [80, 77] and found.columns.tolist() == [80, 80]


def test_n_in_a_copy_is_left_aside():
    genome = random_genome(100 + 2 * WIDTH)
    copy = genome[WIDTH : WIDTH + 100].copy()
    copy[:10] = copy[30:70] = dna.N
    found = align(copy[None], genome[None], WIDTH)
    assert (found.matched, found.columns, found.unknown) == (50, 50, 40)
    assert (found.first_start, found.first_end, found.aligned_bp) == (10, 100, 50)
    assert ungapped_scores(copy[None], genome[None, WIDTH:-WIDTH]) == 50


def test_n_matches_nothing():
    unknown = np.full((1, 30), dna.N, dtype=np.uint8)
    assert ungapped_scores(unknown, unknown).tolist() == [0]
    around = np.full((1, 30 + 2 * WIDTH), dna.N, dtype=np.uint8)
    assert align(unknown, around, WIDTH).score.tolist() == [0]


def test_ungapped_scores_are_the_best_of_all_stretches():
    first, second = pairs(0.75)
    second = second[:, WIDTH:-WIDTH]
    expected = []
    for a, b in zip(first, second, strict=True):
        steps = np.where((a == dna.N) | (b == dna.N), 0, np.where(a == b, 1, -1))
        stretches = [steps[i:j].sum() for i in range(60) for j in range(i, 61)]
        expected.append(max(stretches))
    assert ungapped_scores(first, second).tolist() == expected


@pytest.mark.parametrize("gc", [0.5, 0.3])
def test_random_sequences_reach_a_score_about_as_often_as_is_expected(gc):
    """Once in the mean is in a share of 1 − 1/e of cases at most: scores are whole numbers."""
    genome = random_genome(5_000, gc)
    share = np.bincount(genome)[:4] / genome.size
    same = float(share @ share)
    least = score_by_chance(100, genome.size, same, 1.0)
    places = np.lib.stride_tricks.sliding_window_view(genome, 100)
    ones = [random_genome(100, gc, seed) for seed in range(1, 41)]
    reached = [ungapped_scores(one[None].repeat(len(places), 0), places).max() for one in ones]
    assert 0.1 < np.mean(np.array(reached) >= least) < 0.75
    further = score_by_chance(100, genome.size, same, 0.01) - least
    assert further == pytest.approx(math.log(100) / math.log((1 - same) / same))
