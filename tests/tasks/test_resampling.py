"""Draws of test sequences: their figures are the scores', and intervals hold what they say.

Of one training each: what several seeds add is tested in test_seed_draws.py.
"""

import time

import numpy as np
import pytest

from spacescale.tasks import resampling
from spacescale.tasks.resampling import holm
from spacescale.tasks.scores import METRICS, main_metric, score
from spacescale.tasks.seeds import DrawnScores


def some_classes(random, size, classes=2, shift=1.0):
    targets = random.integers(classes, size=size)
    return targets, random.normal(size=(size, classes)) + shift * np.eye(classes)[targets]


def some_labels(random, size):
    targets = (random.random((size, 2)) < 0.4).astype(np.float32)
    predictions = np.round(random.normal(size=(size, 2)) + targets, 1)  # with ties
    targets[random.random((size, 2)) < 0.2] = np.nan
    return targets, predictions


def some_values(random, size):
    targets = np.round(random.normal(size=(size, 2)), 1).astype(np.float32)
    predictions = np.round(np.exp(random.normal(size=(size, 2)) + targets), 1)
    targets[random.random((size, 2)) < 0.2] = np.nan
    return targets, predictions


def drawn(kind, targets, predictions, metric=None, groups=()):
    return DrawnScores.of(kind, targets, [predictions], metric or main_metric(kind), groups)


def compare(kind, targets, first, second, metric=None):
    return drawn(kind, targets, first, metric).less(drawn(kind, targets, second, metric))


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 200)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("classes", some_classes),
        ("classes", lambda random, size: some_classes(random, size, 4)),
        ("labels", some_labels),
        ("values", some_values),
    ],
)
def test_a_draw_is_scored_as_scikit_learn_scores_its_sequences(kind, made):
    random = np.random.default_rng(0)
    targets, predictions = made(random, 60)
    figures = resampling.figures_of(kind, METRICS[kind], targets, predictions)
    (weights,) = resampling.draw_weights(60, (), seed=1, draws=5)
    assert (weights.sum(1) == 60).all() and len(np.unique(weights)) > 2
    for i, draw in enumerate(weights):
        rows = np.repeat(np.arange(60), draw.astype(int))
        expected = score(kind, targets[rows], predictions[rows])
        for metric, figure in figures.items():
            assert figure(weights)[i] == pytest.approx(expected[metric], abs=1e-12), metric


def test_95_percent_intervals_hold_the_truth_about_as_often(few_draws):
    random, held = np.random.default_rng(2), 0
    for _ in range(300):
        right = random.random(150) < 0.8
        targets = np.zeros(150, dtype=np.int64)
        interval = drawn("classes", targets, np.eye(2)[1 - right], "accuracy").interval()
        held += interval.low <= 0.8 <= interval.high
    assert 0.90 < held / 300 < 0.98


def test_of_many_sequences_auroc_is_drawn_as_near_as_makes_no_difference(monkeypatch):
    targets, predictions = some_labels(np.random.default_rng(3), 6000)
    (weights,) = resampling.draw_weights(6000, (), seed=1, draws=50)
    linear = resampling.figures_of("labels", ["auroc"], targets, predictions)["auroc"](weights)
    monkeypatch.setattr(resampling, "LINEAR_FROM", 10_000)
    exact = resampling.figures_of("labels", ["auroc"], targets, predictions)["auroc"](weights)
    assert np.abs(linear - exact).max() < 0.1 * exact.std()
    assert 0.98 < linear.std() / exact.std() < 1.02


def test_what_takes_long_is_drawn_less_often():
    few, many = np.zeros((1000, 2)), np.zeros((40_000, 18))
    assert resampling.number_of_draws("spearman", few) == resampling.DRAWS
    assert resampling.number_of_draws("spearman", many) == resampling.FEWEST_DRAWS
    for metric in ("auroc", "pearson", "mcc"):
        assert resampling.number_of_draws(metric, many) == resampling.DRAWS


def test_the_seed_decides():
    first, again, other = (
        next(resampling.draw_weights(100, (), seed, draws=5)) for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()


def test_as_many_draws_are_made_as_asked_for(monkeypatch):
    monkeypatch.setattr(resampling, "WEIGHTS_AT_ONCE", 7 * 30)
    parts = list(resampling.draw_weights(30, (), seed=0, draws=20))
    assert [len(part) for part in parts] == [7, 7, 6]


def test_groups_are_drawn_whole():
    groups = ["a", "b", "a", "c"]
    weights = np.concatenate(list(resampling.draw_weights(4, groups, seed=0, draws=50)))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
    assert len(np.unique(weights[:, 1])) > 2


def test_copies_that_share_a_group_do_not_narrow_an_interval():
    targets, predictions = some_classes(np.random.default_rng(4), 200)
    names = [str(i) for i in range(200)]
    alone = drawn("classes", targets, predictions, "accuracy").interval()
    copies = np.tile(targets, 2), np.tile(predictions, (2, 1))
    together = drawn("classes", *copies, "accuracy", groups=names + names).interval()
    assert together.low == pytest.approx(alone.low, abs=0.02)
    apart = drawn("classes", *copies, "accuracy").interval()
    wide = alone.high - alone.low
    assert apart.high - apart.low == pytest.approx(wide / np.sqrt(2), rel=0.15)


def test_draws_that_define_nothing_count_as_0():
    """So that no method gains by draws in which it has no score."""
    targets = np.array([0] * 9 + [1])
    predictions = np.random.default_rng(5).normal(size=(10, 2))
    found = drawn("classes", targets, predictions, "auroc")
    share = (found.draws == 0).mean()
    assert share > 0.9**10 - 0.02 and 0 == found.interval().low < found.interval().high <= 1


def test_a_constant_prediction_has_an_mcc_of_0_in_every_draw():
    targets = np.array([0, 1] * 10)
    assert (drawn("classes", targets, np.tile([0.2, 0.8], (20, 1)), "mcc").draws == 0).all()


def test_models_are_compared_over_the_same_outputs():
    targets, predictions = some_values(np.random.default_rng(10), 100)
    silent = predictions.copy()
    silent[:, 1] = 3  # says nothing of the second value: a correlation of 0, not one fewer
    found = compare("values", targets, predictions, silent)
    assert found.value == pytest.approx(score("values", targets, predictions)["pearson"] -
                                        score("values", targets, silent)["pearson"])  # fmt: skip
    assert 0 < found.interval.low < found.value < found.interval.high


def test_equal_predictions_do_not_differ():
    targets, predictions = some_classes(np.random.default_rng(6), 100)
    found = compare("classes", targets, predictions, 2 * predictions)
    assert (found.metric, found.value, found.p) == ("mcc", 0, 1)
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_a_difference_is_first_minus_second_of_the_same_draws():
    random = np.random.default_rng(7)
    targets, predictions = some_classes(random, 300)
    worse = predictions + random.normal(size=predictions.shape)
    found = compare("classes", targets, predictions, worse, metric="auroc")
    scores = [score("classes", targets, p)["auroc"] for p in (predictions, worse)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    assert 0 < found.interval.low < found.value < found.interval.high and found.p < 0.01
    turned = compare("classes", targets, worse, predictions, metric="auroc")
    assert turned.interval.high == pytest.approx(-found.interval.low) and turned.p == found.p
    apart = drawn("classes", targets, predictions, "auroc").interval()
    assert found.interval.high - found.interval.low < 1.3 * (apart.high - apart.low)


def test_without_a_difference_p_is_small_no_more_often_than_it_says(few_draws):
    random = np.random.default_rng(8)
    p_values = []
    for _ in range(200):
        targets, first = some_classes(random, 200)
        second = random.normal(size=first.shape) + np.eye(2)[targets]
        p_values.append(compare("classes", targets, first, second).p)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) < 0.10
    assert 0.35 < np.mean(np.array(p_values) < 0.5) < 0.65


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_thousands_of_sequences_take_seconds():
    targets, predictions = some_classes(np.random.default_rng(9), 6000)
    began = time.process_time()
    drawn("classes", targets, predictions)
    assert time.process_time() - began < 5
