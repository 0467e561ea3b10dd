"""Scores of several trainings of one method: how they would move with other sequences and seeds.

Shapes: N sequences, C outputs, S seeds, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spacescale.tasks.resampling import (
    DRAWS,
    Difference,
    Interval,
    draw_weights,
    figures_of,
    middle_of,
)
from spacescale.tasks.scores import check_predictions, main_score
from spacescale.tasks.task import Kind


def seed_interval(
    kind: Kind,
    targets: np.ndarray,
    predictions: Sequence[np.ndarray],
    metric: str,
    groups: Sequence[str] = (),
    seed: int = 0,
) -> Interval:
    """The interval of the mean over S predictions (N, C) of a metric; sequences and seeds drawn."""
    return middle_of(_means(kind, targets, [predictions], metric, groups, seed)[0])


def compare_seeds(
    kind: Kind,
    targets: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    metric: str,
    groups: Sequence[str] = (),
    seed: int = 0,
) -> Difference:
    """Compare two methods of S and S' predictions (N, C) of the same sequences.

    The sequences are drawn together, the seeds of each method by themselves. Where a metric is not
    defined it counts as 0. p: see `compare`.
    """
    value = [
        float(np.mean([main_score(kind, targets, one, metric) for one in of]))
        for of in (first, second)
    ]
    means = _means(kind, targets, [first, second], metric, groups, seed)
    differences = means[0] - means[1]
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(differences) + 1))
    return Difference(metric, value[0] - value[1], middle_of(differences), float(p))


def _means(
    kind: Kind,
    targets: np.ndarray,
    methods: Sequence[Sequence[np.ndarray]],
    metric: str,
    groups: Sequence[str],
    seed: int,
) -> list[np.ndarray]:
    """Of each method the mean over drawn seeds of the metric of drawn sequences, float64 (D,)."""
    figures = []
    for predictions in methods:
        for one in predictions:
            check_predictions(kind, targets, one)
        figures.append([figures_of(kind, (metric,), targets, one)[metric] for one in predictions])
    parts = [[] for _ in methods]
    for weights in draw_weights(len(targets), groups, seed, DRAWS):
        for part, of in zip(parts, figures, strict=True):
            part.append(np.stack([np.nan_to_num(figure(weights)) for figure in of]))
    random = np.random.default_rng([seed, 1])
    found = []
    for part in parts:
        values = np.concatenate(part, axis=1)  # (S, D)
        drawn = random.integers(len(values), size=values.shape)
        found.append(np.take_along_axis(values, drawn, axis=0).mean(0))
    return found
