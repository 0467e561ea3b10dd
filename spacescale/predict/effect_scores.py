"""Numbers that compare two alleles: by predicted tracks, by the features of a layer, or by what a
model that predicts hidden bases thinks likely.

Shapes: A averages, N bins, T tracks, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

TrackScore = Literal["log2_ratio", "sum", "log_sum", "d2", "log_d2"]
Distance = Literal["cosine", "euclidean", "manhattan", "dot"]
Likelihood = Literal["llr", "llr_unmasked"]
Score = TrackScore | Distance | Likelihood


def _total(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(axis=1))


def _log_difference(ref: np.ndarray, alt: np.ndarray, c: float) -> np.ndarray:
    return np.log2(alt + c) - np.log2(ref + c)


# Reference and alternative (A, N, T), 0 outside the mask, and a pseudocount → (A, T).
TRACK_SCORES: dict[
    TrackScore, tuple[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]]
] = {
    "log2_ratio": (
        "log2 of (sum of ALT + c) / (sum of REF + c)",
        lambda ref, alt, c: np.log2((_total(alt) + c) / (_total(ref) + c)),
    ),
    "sum": ("sum of ALT - REF", lambda ref, alt, c: _total(alt - ref)),
    "log_sum": (
        "sum of log2(ALT + c) - log2(REF + c)",
        lambda ref, alt, c: _total(_log_difference(ref, alt, c)),
    ),
    "d2": ("Euclidean distance over bins", lambda ref, alt, c: _norm(alt - ref)),
    "log_d2": (
        "Euclidean distance over bins of log2(x + c)",
        lambda ref, alt, c: _norm(_log_difference(ref, alt, c)),
    ),
}

# Features of the reference and of the alternative, (A, C) float64 → (A,).
DISTANCES: dict[Distance, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "cosine": (
        "1 - cosine of the angle between features",
        lambda ref, alt: 1 - (ref * alt).sum(1) / (_norm(ref) * _norm(alt)),
    ),
    "euclidean": ("Euclidean distance of features", lambda ref, alt: _norm(alt - ref)),
    "manhattan": ("sum of absolute differences of features", lambda r, a: abs(a - r).sum(1)),
    "dot": ("dot product of features: the greater, the more alike", lambda r, a: (r * a).sum(1)),
}

# And whether the base is hidden from the model.
LIKELIHOODS: dict[Likelihood, tuple[str, bool]] = {
    "llr": ("log p(ALT) - log p(REF) of the base, which is hidden; of SNVs alone", True),
    "llr_unmasked": ("log p(ALT) - log p(REF) where REF stands; of SNVs alone", False),
}


def log_ratio(log_probabilities: np.ndarray, ref: str, alt: str) -> np.ndarray:
    """Log probabilities (A, 4) of A C G T → those of base ALT less those of REF, float64 (A,)."""
    of_ref, of_alt = (log_probabilities[:, "ACGT".index(base)] for base in (ref, alt))
    return of_alt.astype(np.float64) - of_ref
