"""Sequences of a split as their files hold them: it is not settled yet what their labels mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.dna import encode, encode_counting
from spacescale.tasks.task import SPLITS, Assay, Locus

Column = list[str] | np.ndarray
# What files, folders and the cells of a column `split` call the splits of a task.
SPLIT_OF = {
    "train": "train", "test": "test",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """N sequences of one split.

    codes: N arrays of base codes uint8 (L,). targets: {column: N words, or an array of N numbers}.
    places: where each stands, FILE:LINE, for messages. names, groups,
    offsets, loci: as in `Examples`.
    """

    codes: list[np.ndarray]
    targets: dict[str, Column]
    places: list[str]
    names: list[str]
    groups: list[str] = field(default_factory=list)
    offsets: np.ndarray | None = None
    loci: list[Locus] = field(default_factory=list)

    def take(self, chosen: list[int]) -> Rows:
        """These rows, in this order."""
        return Rows(
            [self.codes[row] for row in chosen],
            {name: _taken(column, chosen) for name, column in self.targets.items()},
            [self.places[row] for row in chosen],
            [self.names[row] for row in chosen],
            [self.groups[row] for row in chosen] if self.groups else [],
            None if self.offsets is None else self.offsets[chosen],
            [self.loci[row] for row in chosen] if self.loci else [],
        )


def _taken(column: Column, chosen: list[int]) -> Column:
    if isinstance(column, np.ndarray):
        return column[chosen]
    return [column[row] for row in chosen]


@dataclass(frozen=True)
class Found:
    """What a layout has read: {split: rows}, and what is to be told of it; assay: as in `Task`."""

    splits: dict[str, Rows]
    notes: list[str] = field(default_factory=list)
    assay: Assay | None = None


def encode_all(sequences: Sequence[str], places: Sequence[str]) -> list[np.ndarray]:
    """Codes uint8 (L,) of each sequence; UserError names the place of one that is empty or no DNA.

    All are translated at once; the letters of each are looked at only where some are odd.
    """
    if "" in sequences:
        raise UserError(f"{places[sequences.index('')]}: an empty sequence, expected letters ACGTN")
    try:
        codes, num_odd = encode_counting("".join(sequences))
    except UserError:
        num_odd = 1
    if num_odd:
        return [
            encode(letters, f"{place}: sequence")
            for letters, place in zip(sequences, places, strict=True)
        ]
    ends = np.cumsum([len(letters) for letters in sequences])
    return np.split(codes, ends[:-1])


def by_split(path: Path, words: Iterable[str]) -> dict[str, str]:
    """Return {split: the word for it} in the order of SPLITS.

    Raises UserError where two of the words mean one split.
    """
    found: dict[str, str] = {}
    for word in words:
        split = SPLIT_OF[word.lower()]
        if split in found:
            raise UserError(
                f"{path} has {found[split]!r} and {word!r}, which both mean the {split} split; "
                "expected one of them"
            )
        found[split] = word
    return {split: found[split] for split in SPLITS if split in found}


def require_splits(path: Path, splits: Iterable[str], where: str) -> None:
    """Raise UserError where the train or the test split is missing among those found."""
    found = list(splits)
    for split in ("train", "test"):
        if split not in found:
            there = ", ".join(found) or "none"
            raise UserError(
                f"{path}: no {split} split in {where}; expected train and test, found {there}"
            )
