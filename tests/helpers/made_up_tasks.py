"""Tasks of random sequences with a planted signal."""

from pathlib import Path

import numpy as np

from spacescale.genome import dna
from spacescale.tasks.task import Examples, Task

MOTIF = dna.encode("TGACTCAT")


def random_sequences(random, number, low=40, high=80, gc=0.5):
    """Codes uint8 of lengths from low to high."""
    share = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    lengths = random.integers(low, high + 1, size=number)
    return [random.choice(4, size=n, p=share).astype(np.uint8) for n in lengths]


def planted(random, codes, motif=MOTIF):
    """With a motif somewhere, on the strand as given."""
    codes = codes.copy()
    at = random.integers(len(codes) - len(motif) + 1)
    codes[at : at + len(motif)] = motif
    return codes


def examples_of(codes, targets):
    return Examples(codes, np.asarray(targets), [str(i) for i in range(len(codes))])


def task_of(kind, splits, outputs=("no", "yes")):
    return Task("made up", Path("made_up"), "test", kind, tuple(outputs), splits)


def motif_task(seed=0, sizes=(600, 200, 200), shuffled=False):
    """Classes: whether a motif was planted."""
    random = np.random.default_rng(seed)

    def split(number):
        targets = random.integers(2, size=number)
        codes = random_sequences(random, number)
        codes = [planted(random, c) if t else c for c, t in zip(codes, targets, strict=True)]
        return examples_of(codes, random.permutation(targets) if shuffled else targets)

    return task_of("classes", dict(zip(("train", "valid", "test"), map(split, sizes), strict=True)))
