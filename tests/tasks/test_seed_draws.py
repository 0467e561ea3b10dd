"""Intervals over seeds hold what they say, also of few."""

import numpy as np
import pytest

from spacescale.tasks.seeds import SeedDraws


@pytest.mark.parametrize("runs", [(5, 5), (3, 3), (5, 1), (3, 1)])
def test_intervals_of_equal_methods_hold_0(runs):
    """Scores differ by seed alone; a method with a single run has none, and is what it is."""
    random, held, pairs = np.random.default_rng(0), 0, 600
    for _ in range(pairs):
        scores = [np.repeat(random.normal(size=(n, 1)) * (n > 1), 400, axis=1) for n in runs]
        first, second = SeedDraws(runs, 400, random).means(scores)
        low, high = np.quantile(first - second, [0.025, 0.975])
        held += low <= 0 <= high
    assert 0.92 <= held / pairs <= 0.99


def test_a_single_run_may_be_given_the_spread_of_the_others():
    scores = [np.repeat([[0.0], [1.0], [2.0]], 2000, axis=1), np.ones((1, 2000))]
    seedless, seeded = (
        SeedDraws((3, 1), 2000, np.random.default_rng(0), single_has_seed=flag).means(scores)[1]
        for flag in (False, True)
    )
    assert (seedless == 1).all() and seeded.std() > 0.5


def test_without_seeds_to_compare_none_are_drawn():
    scores = [np.arange(4.0)[None], np.ones((1, 4))]
    first, second = SeedDraws((1, 1), 4).means(scores)
    assert first.tolist() == [0, 1, 2, 3] and second.tolist() == [1] * 4
