"""Frozen features of a run on GUE's histone marks of yeast, on a split of our own by contig.

GUE's files of these marks have no training part here, and sequences that overlap stand on both
sides of its split. So `dev.csv` and `test.csv` are put together, each sequence is found in the
genome, and a logistic regression on what the model says of it is fitted on all contigs but the
test's. It is none of GUE's tasks. Shapes: S sequences, D features.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spacescale.dataset.reader import SpeciesData
from spacescale.genome import dna
from spacescale.model.space import Space

MARKS = ("H3", "H4", "H3K4me3", "H3K9ac")
ANCHOR = 32  # bases of a sequence's beginning by which it is found: two bits each
BATCH = 64
INVERSE_PENALTY = 0.1  # of the regression, on standardised features


def mean_auroc(model: Space, data: SpeciesData, folder: Path, test: str) -> float:
    """Mean over the marks of the area under the ROC curve on the contig `test`.

    folder: GUE's EMP. Sequences that lie on several contigs, or on none, are left out.
    """
    return float(np.mean([_auroc(model, data, folder / mark, test) for mark in MARKS]))


def _auroc(model: Space, data: SpeciesData, folder: Path, test: str) -> float:
    labels = _labels_of(folder)
    sequences = [dna.encode(sequence) for sequence in labels]
    contigs = contigs_of(sequences, data)
    known = contigs != ""
    features = _features(model, data.name, [sequences[i] for i in np.flatnonzero(known)])
    positive = np.array(list(labels.values()))[known]
    held_out = contigs[known] == test
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    probe.fit(features[~held_out], positive[~held_out])
    return auroc(probe.decision_function(features[held_out]), positive[held_out])


def _labels_of(folder: Path) -> dict[str, bool]:
    """Sequence → label, each sequence once."""
    found = {}
    for name in ("dev.csv", "test.csv"):
        with (folder / name).open() as file:
            found |= {row["sequence"]: row["label"] == "1" for row in csv.DictReader(file)}
    return found


def contigs_of(sequences: list[np.ndarray], data: SpeciesData) -> np.ndarray:
    """On which contig each sequence begins, on either strand; "" on none or on several."""
    begins = [codes[:ANCHOR] for codes in sequences]
    begins += [dna.reverse_complement(codes) for codes in begins]
    words, of_sequence = np.unique([_packed(codes)[0] for codes in begins], return_inverse=True)
    found, times = np.full(len(sequences), "", dtype=object), np.zeros(len(sequences), dtype=int)
    for contig in data.manifest.contigs:
        there = _packed(data.codes(contig.name, 0, contig.length))
        place = np.searchsorted(words, there).clip(max=len(words) - 1)  # the words are few
        is_there = np.zeros(len(words), dtype=bool)
        is_there[place[words[place] == there]] = True
        here = is_there[of_sequence].reshape(2, -1).any(0)
        found[here], times = contig.name, times + here
    found[times != 1] = ""
    return found.astype(str)


def _packed(codes: np.ndarray) -> np.ndarray:
    """Each stretch of ANCHOR bases as a number: uint64 (L − ANCHOR + 1,). N counts as A."""
    bases = np.where(codes < dna.N, codes, 0).astype(np.uint64)
    packed = np.zeros(len(bases) - ANCHOR + 1, dtype=np.uint64)
    for place in range(ANCHOR):
        packed = packed << np.uint64(2) | bases[place : place + len(packed)]
    return packed


@torch.no_grad()
def _features(model: Space, species: str, sequences: list[np.ndarray]) -> np.ndarray:
    """The mean over bins of what the model says of each sequence: float32 (S, D)."""
    found = []
    by_length: dict[int, list[int]] = {}
    for number, codes in enumerate(sequences):
        by_length.setdefault(len(codes), []).append(number)
    for numbers in by_length.values():
        for first in range(0, len(numbers), BATCH):
            here = numbers[first : first + BATCH]
            codes = torch.from_numpy(np.stack([sequences[n] for n in here]))
            found += zip(here, model.embed(codes, species).mean(1).numpy(), strict=True)
    return np.stack([features for _, features in sorted(found, key=lambda one: one[0])])


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Share of pairs in which the positive one scores higher; NaN without both kinds."""
    above, below = score[positive], score[~positive]
    if not len(above) or not len(below):
        return float("nan")
    difference = above[:, None] - below
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
