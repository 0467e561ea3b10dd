"""Tasks that a tiny model learns in seconds: is there a motif?"""

from pathlib import Path

import numpy as np

from spacescale.genome.dna import encode
from spacescale.tasks.task import Examples, Task

MOTIF = encode("GATTACAGG")


def examples(number: int, seed: int, low: int = 64, high: int = 64) -> tuple[Examples, np.ndarray]:
    """Random sequences of low to high bp, half of them with the motif; and which these are."""
    random = np.random.default_rng(seed)
    codes = [
        random.integers(0, 4, random.integers(low, high + 1)).astype(np.uint8)
        for _ in range(number)
    ]
    has = np.arange(number) % 2
    for i in np.flatnonzero(has):
        at = random.integers(0, len(codes[i]) - len(MOTIF))
        codes[i][at : at + len(MOTIF)] = MOTIF
    names = [f"made up:{i + 1}" for i in range(number)]
    return Examples(codes, has.astype(np.int64), names), has


def motif_task(kind: str = "classes", sizes=(192, 64, 64), low: int = 64, high: int = 64) -> Task:
    """Of a kind; a second label or value, where there is one, is not known of every third."""
    splits, outputs = {}, ("without", "with")
    for seed, (split, number) in enumerate(zip(("train", "valid", "test"), sizes, strict=True)):
        found, has = examples(number, seed, low, high)
        if kind != "classes":
            both = np.stack([has, 1 - has], axis=1).astype(np.float32)
            both[::3, 1] = np.nan
            both = 5 + 3 * both if kind == "values" else both
            found, outputs = Examples(found.codes, both, found.names), ("motif", "none")
        splits[split] = found
    return Task("motifs", Path("made up"), "made up", kind, outputs, splits)
