"""Scores of several trainings of one method: how they would move with other sequences and seeds.

Sequences, or blocks of a genome, are drawn with replacement, the same ones for all methods. Seeds:
what each run is off its method's mean is drawn with replacement from the runs of that method, as
the seeds of one may differ more than those of another. Methods are not paired by seed: where shapes
differ, one seed begins with other weights. Few seeds say little of how far seeds differ, which
Student's t makes up for: each draw scales what it took by its own sqrt(df / chi²(df)), df being
Welch's (Biometrika 34:28, 1947) of the methods compared.

Shapes: N sequences, C outputs, S seeds, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from tqdm import tqdm

from spacescale.tasks.resampling import (
    Difference,
    Interval,
    draw_weights,
    figures_of,
    middle_of,
    number_of_draws,
)
from spacescale.tasks.scores import check_predictions, main_score
from spacescale.tasks.task import Kind

SEED = 0  # of all draws


@dataclass(frozen=True)
class DrawnScores:
    """A metric of S trainings: as it is, and float64 (S, D) with sequences drawn again.

    A method with one training is taken for one without a seed.
    """

    metric: str
    values: list[float]
    draws: np.ndarray

    @classmethod
    def of(
        cls,
        kind: Kind,
        targets: np.ndarray,
        predictions: Sequence[np.ndarray],
        metric: str,
        groups: Sequence[str] = (),
    ) -> DrawnScores:
        """Score S predictions (N, C) of the same sequences; undefined scores count as 0 in draws.

        groups: N words; sequences of one are drawn together.
        """
        figures, values, draws = [], [], number_of_draws(metric, targets)
        for one in predictions:
            check_predictions(kind, targets, one)
            values.append(float(main_score(kind, targets, one, metric)))
            figures.append(figures_of(kind, (metric,), targets, one)[metric])
        drawn = []
        with tqdm(total=draws, unit="draw", delay=5, leave=False, disable=None) as bar:
            for weights in draw_weights(len(targets), groups, SEED, draws):
                drawn.append(np.stack([np.nan_to_num(figure(weights)) for figure in figures]))
                bar.update(len(weights))
        return cls(metric, values, np.concatenate(drawn, axis=1))

    def interval(self) -> Interval:
        """Of the mean over seeds."""
        seeds = SeedDraws((len(self.draws),), self.draws.shape[1])
        return middle_of(seeds.means([self.draws])[0])

    def less(self, other: DrawnScores) -> Difference:
        """How far its mean is above another method's on the same sequences.

        p is twice the share of draws on the other side of 0, and never 0.
        """
        seeds = SeedDraws((len(self.draws), len(other.draws)), self.draws.shape[1])
        mine, others = seeds.means([self.draws, other.draws])
        differences = mine - others
        tail = min((differences <= 0).sum(), (differences >= 0).sum())
        p = min(1.0, 2 * (tail + 1) / (len(differences) + 1))
        value = float(np.mean(self.values) - np.mean(other.values))
        return Difference(self.metric, value, middle_of(differences), float(p))


def mean_sd(scores: Sequence[float]) -> str:
    """The mean over seeds and, of several, its standard deviation; – where one is not defined."""
    if any(math.isnan(score) for score in scores):
        return "–"
    return f"{mean(scores):.3f}" + (f" ± {stdev(scores):.3f}" if len(scores) > 1 else "")


class SeedDraws:
    """How each draw takes the runs of methods that are compared."""

    def __init__(
        self,
        runs: Sequence[int],
        draws: int,
        random: np.random.Generator | None = None,
        single_has_seed: bool = False,
    ):
        """runs: of each method. single_has_seed: what has one run only has a seed all the same, and
        is drawn from the other methods' runs, as it has no spread of its own to give.
        """
        random = random or np.random.default_rng([SEED, 1])
        several = sum(number for number in runs if number > 1)
        pools = [number if number > 1 else several * single_has_seed for number in runs]
        self._taken: list[np.ndarray | None] = [
            random.integers(pool, size=(number, draws)) if pool else None
            for number, pool in zip(runs, pools, strict=True)
        ]
        self._draws, self._seed = draws, int(random.integers(2**32))  # of chi²

    def means(self, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Scores (S, D) of each method in every draw of sequences → with seeds drawn, too (D,).

        With one run of each, seeds are not drawn.
        """
        found = [of.mean(0) for of in scores]
        several = [of for of in scores if len(of) > 1]
        if not several:
            return found
        pool, freedom = np.concatenate([_off_mean(of) for of in several]), welch_freedom(several)
        chi2 = np.random.default_rng(self._seed).chisquare(freedom, self._draws)
        scale = np.sqrt(freedom / chi2)
        for place, taken in enumerate(self._taken):
            if taken is not None:
                own = _off_mean(scores[place]) if len(scores[place]) > 1 else pool
                found[place] = found[place] + scale * np.take_along_axis(own, taken, axis=0).mean(0)
        return found


def welch_freedom(scores: Sequence[np.ndarray]) -> float:
    """Degrees of freedom of a sum or difference of means over runs; of each method scores (S, D).

    The variance of runs is that of their means over the draws in which all are defined.
    """
    freedom = np.array([len(of) - 1 for of in scores])
    defined = np.isfinite(np.concatenate(scores)).all(0)
    of_means = np.array([of[:, defined].sum(1).var(ddof=1) / len(of) for of in scores])
    if not of_means.any():
        return float(freedom.sum())
    return float(of_means.sum() ** 2 / (of_means**2 / freedom).sum())


def _off_mean(scores: np.ndarray) -> np.ndarray:
    """(S, D) less the mean over S, as far apart as scores are whose mean is not taken off."""
    runs = len(scores)
    return (scores - scores.mean(0)) * (runs / (runs - 1)) ** 0.5
