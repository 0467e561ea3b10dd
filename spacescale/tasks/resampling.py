"""How much scores would move with other test sequences: the bootstrap, and tests built on it.

Shapes: N sequences, C outputs, D draws. A draw is a weight for each sequence: how often it, or its
group, was drawn. All figures are those of `tasks.scores`, with weights and for many draws at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spacescale.tasks.scores import OF_DECISIONS, per_output
from spacescale.tasks.task import Kind

DRAWS = 10_000  # so that p can be small enough for many tasks at once
FEWEST_DRAWS = 1_000  # where that takes too long
RANKED_AT_ONCE = 200_000_000  # values that are ranked for one training in all draws: some minutes
LINEAR_FROM = 5_000  # sequences from which on AUROC is taken to first order
LEVEL = 0.95
WEIGHTS_AT_ONCE = 300_000  # of draws x sequences: what caches hold
CONSTANT_BELOW = 1e-12  # share of a variance about the mean of all that is no more than rounding

Figure = Callable[[np.ndarray], np.ndarray]  # weights float64 (D, N) -> (D,), NaN where undefined


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of draws; NaN where a figure is defined in none of them."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First minus second in a metric, its interval, and the two-sided p of no difference."""

    metric: str
    value: float
    interval: Interval
    p: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p: below a level, a task differs, and no task errs in that share of tables.

    NaN takes no part, and stays.
    """
    adjusted = np.asarray(p_values, dtype=np.float64).copy()
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known], kind="stable")]
    scaled = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def draw_weights(size: int, groups: Sequence[str], seed: int, draws: int) -> Iterator[np.ndarray]:
    """How often each sequence is drawn, float64 (some, N), `draws` rows in all."""
    random = np.random.default_rng(seed)
    members = np.unique(np.array(groups), return_inverse=True)[1] if groups else np.arange(size)
    units = int(members.max()) + 1
    at_once = max(1, WEIGHTS_AT_ONCE // size)
    for first in range(0, draws, at_once):
        rows = min(at_once, draws - first)
        drawn = random.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        yield counts[:, members].astype(np.float64)


def number_of_draws(metric: str, targets: np.ndarray) -> int:
    """DRAWS, or fewer of a metric that ranks many targets (N,) or (N, C) anew in each of them."""
    ranks = {"auprc", "spearman"} | ({"auroc"} if len(targets) < LINEAR_FROM else set())
    if metric not in ranks:
        return DRAWS
    return min(DRAWS, max(FEWEST_DRAWS, RANKED_AT_ONCE // targets.size))


def middle_of(values: np.ndarray) -> Interval:
    """The interval of draws, float64 (D,), without those where a figure is not defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def figures_of(
    kind: Kind, metrics: Sequence[str], targets: np.ndarray, predictions: np.ndarray
) -> dict[str, Figure]:
    """What computes each metric of predictions (N, C) for many draws at once."""
    figures: dict[str, Figure] = {}
    if any(metric in OF_DECISIONS for metric in metrics):
        decided = _decisions(targets, predictions)
        figures = {m: decided[m] for m in metrics if m in decided}
    of_outputs = [metric for metric in metrics if metric not in OF_DECISIONS]
    if of_outputs:
        truth, predicted = per_output(kind, targets, predictions)
        for metric in of_outputs:
            linear = metric == "auroc" and len(targets) >= LINEAR_FROM
            prepare = _linear_auroc if linear else _OF_OUTPUTS[metric]
            figures[metric] = _mean_over_outputs(prepare, truth, predicted)
    return figures


def _decisions(targets: np.ndarray, predictions: np.ndarray) -> dict[str, Figure]:
    """MCC, macro-F1 and accuracy, from the confusions (D, C, C) of each draw: truth, decision."""
    classes = predictions.shape[1]
    cell = classes * targets + predictions.argmax(1)
    is_cell = (cell[:, None] == np.arange(classes**2)).astype(np.float64)  # (N, C x C)

    def of_confusions(figure: Callable[[np.ndarray], np.ndarray]) -> Figure:
        return lambda weights: figure((weights @ is_cell).reshape(-1, classes, classes))

    return {
        "mcc": of_confusions(_mcc),
        "macro_f1": of_confusions(_macro_f1),
        "accuracy": of_confusions(lambda confusions: _hits(confusions) / confusions.sum((1, 2))),
    }


def _hits(confusions: np.ndarray) -> np.ndarray:
    return np.trace(confusions, axis1=1, axis2=2)


def _mcc(confusions: np.ndarray) -> np.ndarray:
    """Gorodkin's, of any number of classes; 0 where truth or decision is one class alone."""
    total, true, decided = confusions.sum((1, 2)), confusions.sum(2), confusions.sum(1)
    together = _hits(confusions) * total - (true * decided).sum(1)
    spread = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (decided**2).sum(1)))
    return _divided(together, spread, otherwise=0.0)


def _macro_f1(confusions: np.ndarray) -> np.ndarray:
    """Mean over classes that occur or are predicted."""
    both = confusions.sum(2) + confusions.sum(1)  # (D, C)
    f1 = _divided(2 * np.diagonal(confusions, axis1=1, axis2=2), both, otherwise=np.nan)
    return np.nanmean(f1, axis=1)


def _divided(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, otherwise), where=below > 0)


def _mean_over_outputs(
    prepare: Callable[[np.ndarray, np.ndarray], Figure], truth: np.ndarray, predicted: np.ndarray
) -> Figure:
    """Mean of a figure over the outputs where a draw defines it."""
    figures = []
    for output in range(truth.shape[1]):
        known = np.flatnonzero(~np.isnan(truth[:, output]))
        if len(known):
            figures.append((known, prepare(truth[known, output], predicted[known, output])))

    def mean(weights: np.ndarray) -> np.ndarray:
        total, defined = np.zeros(len(weights)), np.zeros(len(weights))
        for known, figure in figures:
            found = figure(weights if len(known) == len(truth) else weights[:, known])
            total += np.nan_to_num(found)
            defined += ~np.isnan(found)
        return _divided(total, defined, otherwise=np.nan)

    return mean


def _ties(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ascending order of values (N,), and where in it each run of equal ones begins."""
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=-np.inf) > 0
    return order, np.flatnonzero(new)


def _auroc(truth: np.ndarray, predicted: np.ndarray) -> Figure:
    """The share of pairs of a 1 and a 0 that are in order, a tie being half of one."""
    order, begins = _ties(predicted)
    is_one = truth[order] > 0

    def figure(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, order]
        ones = np.add.reduceat(weights * is_one, begins, axis=1)
        zeros = np.add.reduceat(weights * ~is_one, begins, axis=1)
        in_order = (ones * (zeros.cumsum(1) - zeros / 2)).sum(1)
        return _divided(in_order, ones.sum(1) * zeros.sum(1), otherwise=np.nan)

    return figure


def _linear_auroc(truth: np.ndarray, predicted: np.ndarray) -> Figure:
    """AUROC to first order in the weights: a product instead of sums over an order in each draw.

    Each sequence counts by the share of the other class that is in order with it (DeLong et al.
    1988, Biometrics 44:837).
    """
    order, begins = _ties(predicted)
    is_one = truth[order] > 0
    ones, zeros = (np.add.reduceat(is_1.astype(np.float64), begins) for is_1 in (is_one, ~is_one))
    if not (ones.any() and zeros.any()):
        return lambda weights: np.full(len(weights), np.nan)
    below = (zeros.cumsum() - zeros / 2) / zeros.sum()
    above = 1 - (ones.cumsum() - ones / 2) / ones.sum()
    auroc = float(ones @ below / ones.sum())
    run = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(order)))
    counts = np.empty(len(order))
    counts[order] = np.where(
        is_one, (below[run] - auroc) / ones.sum(), (above[run] - auroc) / zeros.sum()
    )
    return lambda weights: auroc + weights @ counts


def _auprc(truth: np.ndarray, predicted: np.ndarray) -> Figure:
    """The mean precision at each 1, those of equal predictions being found together."""
    order, begins = _ties(-predicted)
    is_one = truth[order] > 0

    def figure(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, order]
        ones = np.add.reduceat(weights * is_one, begins, axis=1)
        found = np.add.reduceat(weights, begins, axis=1).cumsum(1)
        precision = _divided(ones.cumsum(1), found, otherwise=0.0)
        return _divided((ones * precision).sum(1), ones.sum(1), otherwise=np.nan)

    return figure


def _pearson(truth: np.ndarray, predicted: np.ndarray) -> Figure:
    x, y = (values - values.mean() for values in (truth, predicted))
    products = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)  # (N, 6)
    return lambda weights: _correlation(weights @ products)


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Pearson from sums (D, 6) of weights, x, y, x², y² and xy; x is the truth, y predicted.

    NaN where the truth is constant, else 0 where the prediction is.
    """
    count, x, y, xx, yy, xy = sums.T
    count = np.maximum(count, 1)
    spread_x, spread_y = _spread(count, x, xx), _spread(count, y, yy)
    found = _divided(xy - x * y / count, np.sqrt(spread_x * spread_y), otherwise=0.0)
    return np.where(spread_x > 0, np.clip(found, -1, 1), np.nan)


def _spread(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Sum of squares about the mean, 0 where it is no more than rounding."""
    spread = squares - total**2 / count
    return np.where(spread > CONSTANT_BELOW * squares, spread, 0.0)


def _spearman(truth: np.ndarray, predicted: np.ndarray) -> Figure:
    """Pearson of the ranks that values have within a draw."""
    rankings = [_ranks_in_draws(values) for values in (truth, predicted)]

    def figure(weights: np.ndarray) -> np.ndarray:
        count = weights.sum(1)
        middle = ((count + 1) / 2)[:, None]  # the mean rank
        x, y = (ranks(weights) - middle for ranks in rankings)
        products = [np.einsum("dn,dn,dn->d", weights, a, b) for a, b in ((x, x), (y, y), (x, y))]
        zero = np.zeros_like(count)
        return _correlation(np.stack([count, zero, zero, *products], axis=1))

    return figure


def _ranks_in_draws(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weights (D, N) to the rank of each value in each draw, from 1, ties sharing their mean."""
    order, begins = _ties(values)
    run = np.zeros(len(values), dtype=np.int64)
    run[order] = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(values)))

    def ranks(weights: np.ndarray) -> np.ndarray:
        in_run = np.add.reduceat(weights[:, order], begins, axis=1)
        return (in_run.cumsum(1) - (in_run - 1) / 2)[:, run]

    return ranks


_OF_OUTPUTS = {"auroc": _auroc, "auprc": _auprc, "pearson": _pearson, "spearman": _spearman}
