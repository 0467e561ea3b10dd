"""Intervals over seeds hold what they say, also of few."""

import numpy as np
import pytest
import scipy.stats

from spacescale.tasks.seeds import SeedDraws, welch_freedom


@pytest.mark.parametrize("spread", [1, 5])
@pytest.mark.parametrize("runs", [(5, 5), (3, 3), (5, 1), (3, 1)])
def test_intervals_of_equal_methods_hold_0(runs, spread):
    """Scores differ by seed alone; a method with a single run has none, and is what it is.

    spread: how many times as far apart the first method's seeds are as the second's.
    """
    random, held, pairs = np.random.default_rng(0), 0, 600
    for _ in range(pairs):
        scores = [
            np.repeat(scale * random.normal(size=(n, 1)) * (n > 1), 400, axis=1)
            for n, scale in zip(runs, (spread, 1), strict=True)
        ]
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


def test_degrees_of_freedom_are_welchs():
    scores = [np.array([[1.0], [2.0], [3.0], [6.0]]), np.array([[0.0], [0.5], [4.0]])]
    welch = scipy.stats.ttest_ind(scores[0][:, 0], scores[1][:, 0], equal_var=False)
    assert welch_freedom(scores) == pytest.approx(welch.df)
    assert welch_freedom([np.zeros((5, 1)), np.zeros((3, 1))]) == 6  # nothing differs
