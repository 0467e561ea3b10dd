"""How good predictions of a task are, in scikit-learn's and scipy's figures.

Shapes: N sequences, C outputs. Predictions are float (N, C): of `classes` probabilities or logits,
the highest of which decides; of `labels` anything that is higher where 1 is likelier; of `values`
values. What is not finite in them is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from spacescale.errors import UserError
from spacescale.tasks.extra import tasks_extra
from spacescale.tasks.task import Kind

METRICS: dict[Kind, tuple[str, ...]] = {  # the first is the main one
    "classes": ("mcc", "macro_f1", "accuracy", "auroc", "auprc"),
    "labels": ("auroc", "auprc"),
    "values": ("pearson", "spearman"),
}
OF_DECISIONS = ("mcc", "macro_f1", "accuracy")


def main_metric(kind: Kind, metric: str | None = None) -> str:
    """Return what tasks of a kind are judged by: `metric` if given, which must be one of them."""
    if metric is None:
        return METRICS[kind][0]
    if metric not in METRICS[kind]:
        raise UserError(
            f"metric {metric!r}: tasks of {kind} are scored by {', '.join(METRICS[kind])}"
        )
    return metric


def main_score(kind: Kind, targets: np.ndarray, predictions: np.ndarray, metric: str) -> float:
    """One figure to choose by, higher being better: 0 where it is not defined."""
    value = _figure(kind, targets, predictions, metric)
    return 0.0 if np.isnan(value) else value


def score(kind: Kind, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Return all METRICS of a kind, and how far they can be trusted.

    AUROC and AUPRC are those of the second class where there are two, else means over classes, each
    against the rest; over labels they are means, as Pearson and Spearman are over values, of those
    outputs where they are defined. A figure that is defined for none is NaN. Beside them
    `constant`: the number of outputs for which all predictions are the same, or 1 where one class
    is predicted throughout, which counts as an MCC or a correlation of 0; `undefined`: the number
    of outputs that a mean leaves out, as their targets do not differ, whatever was predicted.
    `remarks` puts both into words.
    """
    check_predictions(kind, targets, predictions)
    figures = {m: _figure(kind, targets, predictions, m) for m in METRICS[kind]}
    figures["constant"] = float(_constant(kind, targets, predictions).sum())
    figures["undefined"] = float(_undefined(kind, targets, predictions).sum())
    return figures


def _figure(kind: Kind, targets: np.ndarray, predictions: np.ndarray, metric: str) -> float:
    if metric not in OF_DECISIONS:
        return _mean(score_outputs(kind, targets, predictions, metric))
    with warnings.catch_warnings():  # that there is one class alone: `remarks` says so
        warnings.filterwarnings("ignore", message="A single label was found")
        return float(_function(metric)(targets, predictions.argmax(1)))


def score_outputs(
    kind: Kind, targets: np.ndarray, predictions: np.ndarray, metric: str
) -> np.ndarray:
    """A metric that is not one of OF_DECISIONS, for each output: float64 (C,), NaN where undefined.

    Of two classes there is one output, the second. A constant prediction correlates by 0.
    """
    truth, predicted = per_output(kind, targets, predictions)
    function = _function(metric)
    found = np.full(truth.shape[1], np.nan)
    for output in np.flatnonzero(~_undefined(kind, targets, predictions)):
        known = ~np.isnan(truth[:, output])
        of_known = predicted[known, output]
        nothing_said = kind == "values" and (of_known == of_known[0]).all()
        found[output] = 0.0 if nothing_said else function(truth[known, output], of_known)
    return found


def remarks(
    kind: Kind, targets: np.ndarray, predictions: np.ndarray, outputs: Sequence[str]
) -> list[str]:
    """Say what `constant` and `undefined` of `score` count, by the names of the C outputs."""
    found = []
    constant = _constant(kind, targets, predictions)
    if kind == "classes" and constant.any():
        only = outputs[int(predictions.argmax(1)[0])]
        found.append(f"every sequence is predicted to be {only}: MCC is 0")
    elif constant.any():
        found.append(f"the same is predicted for all sequences of {_named(outputs, constant)}")
    undefined = _undefined(kind, targets, predictions)
    if undefined.any():
        names = outputs[1:] if kind == "classes" and len(outputs) == 2 else outputs
        metrics = " and ".join(m for m in METRICS[kind] if m not in OF_DECISIONS)
        why = {
            "classes": "the sequences hold none, or nothing else",
            "labels": "all known labels are the same",
            "values": "all known values are the same",
        }[kind]
        found.append(f"{metrics} are not defined for {_named(names, undefined)}: {why}")
    return found


def _named(outputs: Sequence[str], which: np.ndarray, most: int = 5) -> str:
    names = [outputs[i] for i in np.flatnonzero(which).tolist()]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_predictions(kind: Kind, targets: np.ndarray, predictions: np.ndarray) -> None:
    """Raise UserError where predictions do not fit targets or are not finite."""
    wanted = (len(targets),) if kind == "classes" else targets.shape
    if predictions.ndim != 2 or predictions.shape[: len(wanted)] != wanted:
        raise UserError(
            f"predictions of shape {predictions.shape}: targets of {kind} are {targets.shape}"
        )
    if kind == "classes" and len(targets) and targets.max() >= predictions.shape[1]:
        raise UserError(
            f"predictions of {predictions.shape[1]} classes: class {targets.max()} occurs"
        )
    if not len(targets):
        raise UserError("there are no sequences to score")
    if not np.isfinite(predictions).all():
        row = int(np.flatnonzero(~np.isfinite(predictions).all(1))[0])
        raise UserError(f"prediction {row + 1} is {predictions[row]}: expected finite numbers")


def per_output(
    kind: Kind, targets: np.ndarray, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets and predictions as they are ranked, float64 (N, C) each, NaN for what is not known.

    Classes become labels, each 1 for its class against the rest; of two classes the second alone.
    """
    if kind != "classes":
        return targets.astype(np.float64), predictions.astype(np.float64)
    truth = (targets[:, None] == np.arange(predictions.shape[1])).astype(np.float64)
    probability = probabilities(predictions)
    return (truth[:, 1:], probability[:, 1:]) if truth.shape[1] == 2 else (truth, probability)


def probabilities(predictions: np.ndarray) -> np.ndarray:
    """Return float64 (N, C): themselves where they are probabilities, else those of logits."""
    given = predictions.astype(np.float64)
    if (given >= 0).all() and np.allclose(given.sum(1), 1, atol=1e-3):
        return given
    with tasks_extra():
        from scipy.special import softmax
    return softmax(given, axis=1)


def _function(metric: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    with tasks_extra():
        from scipy import stats
        from sklearn import metrics
    return {
        "mcc": metrics.matthews_corrcoef,
        "macro_f1": partial(metrics.f1_score, average="macro"),
        "accuracy": metrics.accuracy_score,
        "auroc": metrics.roc_auc_score,
        "auprc": metrics.average_precision_score,
        "pearson": lambda truth, predicted: stats.pearsonr(truth, predicted)[0],
        "spearman": lambda truth, predicted: stats.spearmanr(truth, predicted)[0],
    }[metric]


def _constant(kind: Kind, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether an output's predictions do not differ, bool (C,); of classes the decision, (1,)."""
    if kind == "classes":
        return _same(predictions.argmax(1)[:, None].astype(np.float64))
    return _same(np.where(np.isnan(targets), np.nan, predictions))


def _undefined(kind: Kind, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether an output's targets do not differ, bool (C,): then there is nothing to rank by."""
    return _same(per_output(kind, targets, predictions)[0])


def _same(values: np.ndarray) -> np.ndarray:
    """Whether a column holds one value at most, NaN apart: bool (C,)."""
    low = np.where(np.isnan(values), np.inf, values).min(0)
    high = np.where(np.isnan(values), -np.inf, values).max(0)
    return ~(high > low)


def _mean(values: np.ndarray) -> float:
    """Of those that are not NaN; NaN where all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
