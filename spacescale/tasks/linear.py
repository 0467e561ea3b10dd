"""Logistic and ridge regressions of tasks, with the penalty that is best on validation.

Shapes: N sequences, F features, C outputs. Features are float (N, F), an array or scipy's CSR.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spacescale.tasks.extra import tasks_extra
from spacescale.tasks.scores import main_score
from spacescale.tasks.task import Kind

PENALTIES = 10.0 ** np.arange(2, -3.5, -0.5)  # strongest first, of the mean loss of a sequence
ITERATIONS = 200
NEVER = -100.0  # log-odds of what does not occur in training
TOLERANCE = 1e-3  # further iterations move the scores of words by less than seeds would


@dataclass(frozen=True)
class LinearModel:
    """Coefficients float64 (F, C) and intercept (C,), of log-odds or of values."""

    kind: Kind
    coefficients: np.ndarray
    intercept: np.ndarray

    def predict(self, features: Any) -> np.ndarray:
        """Probabilities of classes or labels, or values: float64 (N, C)."""
        with tasks_extra():
            from scipy.special import expit, softmax
        found = features @ self.coefficients + self.intercept
        if self.kind == "classes":
            return softmax(found, axis=1)
        return expit(found) if self.kind == "labels" else found


@dataclass(frozen=True)
class Chosen:
    """The model whose penalty was best, and its score on validation."""

    model: LinearModel
    penalty: float
    score: float


def fit_linear(
    kind: Kind,
    outputs: int,
    train: tuple[Any, np.ndarray],
    valid: tuple[Any, np.ndarray],
    metric: str,
    penalties: Sequence[float] = tuple(PENALTIES),
) -> Chosen:
    """Fit with every one of the penalties, and keep the best, of equals the first.

    train, valid: features (N, F) and targets as `Examples` has them; NaN targets do not count.
    """
    features, targets = train
    if kind == "classes":
        path = _class_path(features, targets, outputs, penalties)
    else:
        of_column = _label_path if kind == "labels" else _ridge_path
        columns = []
        for column in targets.T:
            known = np.flatnonzero(~np.isnan(column))
            used = features if len(known) == len(column) else features[known]
            columns.append(of_column(used, column[known], penalties))
        path = [_beside(weights) for weights in zip(*columns, strict=True)]
    models = [LinearModel(kind, *weights) for weights in path]
    scores = [main_score(kind, valid[1], model.predict(valid[0]), metric) for model in models]
    best = int(np.argmax(scores))
    return Chosen(models[best], float(penalties[best]), scores[best])


Weights = tuple[np.ndarray, np.ndarray]  # coefficients (F, C) and intercept (C,)


def _beside(weights: Sequence[Weights]) -> Weights:
    coefficients, intercepts = zip(*weights, strict=True)
    return np.concatenate(coefficients, axis=1), np.concatenate(intercepts)


def _class_path(
    features: Any, targets: np.ndarray, outputs: int, penalties: Sequence[float]
) -> list[Weights]:
    """Weights of all classes for each penalty; a class that does not occur is never predicted."""
    present = np.unique(targets)
    intercept = np.full(outputs, NEVER)
    intercept[present] = 0
    coefficients = np.zeros((features.shape[1], outputs))
    if len(present) == 1:
        return [(coefficients, intercept)] * len(penalties)
    path = []
    for fitted_coefficients, fitted_intercept in _logistic_path(features, targets, penalties):
        coefficients, intercept = coefficients.copy(), intercept.copy()
        # Of two classes one has weights, the log-odds of the second.
        with_weights = present[1:] if len(present) == 2 else present
        coefficients[:, with_weights] = fitted_coefficients
        intercept[with_weights] = fitted_intercept
        path.append((coefficients, intercept))
    return path


def _label_path(features: Any, targets: np.ndarray, penalties: Sequence[float]) -> list[Weights]:
    """Log-odds of a label, features being of where it is known; one number if it never differs."""
    ones = int((targets > 0).sum())
    if 0 < ones < len(targets):
        return _logistic_path(features, targets > 0, penalties)
    odds = np.log((ones + 1) / (len(targets) - ones + 1))
    return [(np.zeros((features.shape[1], 1)), np.array([odds]))] * len(penalties)


def _logistic_path(features: Any, targets: np.ndarray, penalties: Sequence[float]) -> list[Weights]:
    """scikit-learn's weights for each penalty, each begun at those of the one before."""
    with tasks_extra():
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    model = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    path = []
    for penalty in penalties:
        model.C = 1 / (penalty * len(targets))
        with warnings.catch_warnings():  # validation judges what came of it, converged or not
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, targets)
        path.append(
            (model.coef_.T.astype(np.float64), np.asarray(model.intercept_, dtype=np.float64))
        )
    return path


def _ridge_path(features: Any, targets: np.ndarray, penalties: Sequence[float]) -> list[Weights]:
    """Weights of values for each penalty; features are of where they are known."""
    if not len(targets):
        return [(np.zeros((features.shape[1], 1)), np.zeros(1))] * len(penalties)
    with tasks_extra():
        from sklearn.linear_model import Ridge
    path = []
    for penalty in penalties:
        model = Ridge(penalty * len(targets), max_iter=ITERATIONS, tol=TOLERANCE)
        model.fit(features, targets)
        path.append((model.coef_.reshape(-1, 1), np.array([model.intercept_])))
    return path
