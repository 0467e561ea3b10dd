"""What seconds of fitting give: the most frequent answer, length and GC content, words of bases.

Shapes: N sequences, F features, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids, reverse_complement_ids
from spacescale.tasks.baseline import Baseline, fitted_on
from spacescale.tasks.extra import tasks_extra
from spacescale.tasks.linear import fit_linear
from spacescale.tasks.scores import main_metric, main_score
from spacescale.tasks.task import Examples, Task

LONGEST_WORD = 6
MOST_BASES = 30_000_000  # of training sequences whose words are counted: some GB of memory


def fit_majority(task: Task, seed: int = 0, metric: str | None = None) -> Baseline:
    """The same for all: frequencies of classes and labels, means of values, 0 where none is known.

    There is nothing to choose, and nothing that depends on the seed.
    """
    train, valid = fitted_on(task)
    if task.kind == "classes":
        means = np.bincount(train.targets, minlength=len(task.outputs)) / len(train)
    else:
        known = ~np.isnan(train.targets)
        total = np.where(known, train.targets, 0).sum(0, dtype=np.float64)
        means = total / np.maximum(known.sum(0), 1)

    def predict(examples: Examples) -> np.ndarray:
        return np.tile(means, (len(examples), 1))

    by = main_metric(task.kind, metric)
    return Baseline("majority", predict, main_score(task.kind, valid.targets, predict(valid), by))


def fit_length_and_gc(task: Task, seed: int = 0, metric: str | None = None) -> Baseline:
    """Logistic or ridge regression on how long sequences are and how much of them is G or C."""
    train, _ = fitted_on(task)
    features = length_and_gc(train)
    mean, deviation = features.mean(0), features.std(0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)

    def features_of(examples: Examples) -> np.ndarray:
        return (length_and_gc(examples) - mean) * scale

    return _fit("length and GC", task, train, features_of, metric)


def fit_kmers(task: Task, seed: int = 0, metric: str | None = None) -> Baseline:
    """Logistic or ridge regression on how frequent words of 1 to LONGEST_WORD bases are.

    Validation chooses whether a word and its reverse complement count as one. Of training
    sequences of more than MOST_BASES in all, as many are drawn as hold so many.
    """
    train, _ = fitted_on(task)
    used = _of_most_bases(train, seed)
    fewer = f", {len(used)} of {len(train)} training sequences" if len(used) < len(train) else ""
    fitted = []
    for strands, both in (("one strand", False), ("both strands", True)):
        scale = _scale(word_frequencies(used, both))

        def features_of(examples: Examples, both: bool = both, scale: Any = scale) -> Any:
            return word_frequencies(examples, both) @ scale

        fitted.append(_fit("k-mers", task, used, features_of, metric, f", {strands}{fewer}"))
    return max(fitted, key=lambda baseline: baseline.valid_score)


def _fit(
    name: str,
    task: Task,
    train: Examples,
    features_of: Callable[[Examples], Any],
    metric: str | None,
    remark: str = "",
) -> Baseline:
    """Fit a linear model to features (N, F) of sequences."""
    valid = task.splits["valid"]
    found = fit_linear(
        task.kind,
        len(task.outputs),
        (features_of(train), train.targets),
        (features_of(valid), valid.targets),
        main_metric(task.kind, metric),
    )
    return Baseline(
        name,
        lambda examples: found.model.predict(features_of(examples)),
        found.score,
        f"penalty {found.penalty:.2g}{remark}",
    )


def length_and_gc(examples: Examples) -> np.ndarray:
    """Length, its log, the share of G and C of known bases, and its square: float64 (N, 4)."""
    counts = np.stack([np.bincount(codes, minlength=dna.N + 1) for codes in examples.codes])
    gc = (counts[:, dna.G] + counts[:, dna.C]) / np.maximum(counts[:, : dna.N].sum(1), 1)
    lengths = examples.lengths
    return np.stack([lengths, np.log1p(lengths), gc, gc**2], axis=1)


def word_frequencies(examples: Examples, both_strands: bool = False) -> Any:
    """Share of each word among those of its length, for lengths 1 to LONGEST_WORD.

    scipy's CSR, float32 (N, 4 + 4² + …). Words with an N are not counted, nor in the share.
    both_strands: a word and its reverse complement share one column, and the others are left empty.
    """
    with tasks_extra():
        from scipy import sparse
    # An N behind each sequence: no word reaches from one into the next.
    joined = np.concatenate([np.append(codes, np.uint8(dna.N)) for codes in examples.codes])
    rows = np.repeat(np.arange(len(examples), dtype=np.int32), examples.lengths + 1)
    blocks = []
    for length in range(1, LONGEST_WORD + 1):
        ids = kmer_ids(joined, length)
        known = ids < 4**length
        of_row, ids = rows[known], ids[known]
        if both_strands:
            ids = np.minimum(ids, reverse_complement_ids(length)[ids])
        share = (1 / np.maximum(np.bincount(of_row, minlength=len(examples)), 1))[of_row]
        place = (of_row, ids.astype(np.int32))
        shape = (len(examples), 4**length)
        blocks.append(sparse.csr_array((share.astype(np.float32), place), shape=shape))
    return sparse.hstack(blocks, format="csr")


def _scale(frequencies: Any) -> Any:
    """What to multiply frequencies by from the right, diagonal (F, F).

    A column is divided by the root of its root mean square: half way from words as frequent as they
    are, of which the penalty leaves the frequent ones, to all alike, which leaves the noise of rare
    ones; better than either on promoters and binding sites. Then all are scaled to a mean square
    of 1.
    """
    with tasks_extra():
        from scipy import sparse
    square = np.asarray(frequencies.multiply(frequencies).mean(axis=0), dtype=np.float64)
    scale = np.divide(1, square**0.25, out=np.zeros_like(square), where=square > 0)
    mean_square = (square * scale**2).mean()
    return sparse.diags_array((scale / np.sqrt(max(mean_square, 1e-12))).astype(np.float32))


def _of_most_bases(examples: Examples, seed: int) -> Examples:
    total = examples.lengths.sum()
    if total <= MOST_BASES:
        return examples
    order = np.random.default_rng(seed).permutation(len(examples))
    number = int(np.searchsorted(examples.lengths[order].cumsum(), MOST_BASES))
    return examples.take(np.sort(order[: max(number, 1)]))
