"""The sequences that are looked for, and what was found of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.contamination.search import LONGEST_PIECE, Found
from spacescale.genome import dna
from spacescale.predict.sequence_embeddings import read_sequences
from spacescale.tasks.read_task import holds_task, read_task, tasks_below
from spacescale.tasks.task import Kind

_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}


@dataclass(frozen=True)
class Query:
    """A sequence of a task, codes uint8 (L,); split: '-' where it is in none."""

    task: str
    split: str
    name: str
    codes: np.ndarray

    @property
    def known_bp(self) -> int:
        """Its bases that are not N."""
        return int(np.count_nonzero(self.codes != dna.N))


def read_queries(path: Path, genome: Path | None = None, kind: Kind | None = None) -> list[Query]:
    """The sequences of the tasks of a folder, of a task in one file, or of any other file.

    A file of another kind is read as `embed` does, and its split is that of which it has the name.
    genome, kind: see `read_task`. Raises UserError naming file and line.
    """
    if path.is_dir():
        return [query for task in tasks_below(path) for query in _of_task(task, genome, kind)]
    if holds_task(path):
        return _of_task(path, genome, kind)
    split = _SPLITS.get(path.name.split(".")[0], "-")
    task = path.name.split(".")[0] if split == "-" else path.absolute().parent.name
    return [Query(task, split, one.name, one.codes) for one in read_sequences(path)]


def _of_task(path: Path, genome: Path | None, kind: Kind | None) -> list[Query]:
    task = read_task(path, genome=genome, kind=kind)
    return [
        Query(task.name, split, name, codes)
        for split, examples in task.splits.items()
        for name, codes in zip(examples.names, examples.codes, strict=True)
    ]


def cut(codes: np.ndarray) -> list[np.ndarray]:
    """Cut a sequence into pieces of equal length, as few as may be searched."""
    return np.array_split(codes, max(math.ceil(codes.size / LONGEST_PIECE), 1))


@dataclass(frozen=True)
class Hit:
    """Where a sequence, or its like, lies.

    identity: share of equal bases in the aligned columns, gaps included. aligned_bp: bases of the
    sequence that are aligned. chunk, start, end: where the best piece lies, and the others that lie
    beside it in the same chunk; as `Found` counts.
    """

    identity: float
    aligned_bp: int
    chunk: int
    start: int
    end: int
    reverse: bool


def join(
    found: Found, owners: np.ndarray, lengths: np.ndarray, least_score: np.ndarray
) -> dict[tuple[int, int], Hit]:
    """The hits of sequences from those of their pieces: (sequence, kind) → hit.

    owners: which sequence each piece is of, int64 (pieces,), ascending. lengths: of the sequences,
    bp. least_score: below it the hit of a piece does not count, float64 (sequences,).
    """
    owner = owners[found.piece]
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row in np.flatnonzero(found.score >= least_score[owner]).tolist():
        rows_of.setdefault((int(owner[row]), int(found.kind[row])), []).append(row)
    return {
        key: _join(found, np.array(rows), int(lengths[key[0]])) for key, rows in rows_of.items()
    }


def _join(found: Found, rows: np.ndarray, length: int) -> Hit:
    best = rows[found.score[rows].argmax()]
    start, end = found.second_start[rows], found.second_end[rows]
    beside = (
        (found.chunk[rows] == found.chunk[best])
        & (found.reverse[rows] == found.reverse[best])
        & (end > found.second_end[best] - length)
        & (start < found.second_start[best] + length)
    )
    return Hit(
        identity=float(found.matched[rows].sum() / found.columns[rows].sum()),
        aligned_bp=int((found.first_end - found.first_start)[rows].sum()),
        chunk=int(found.chunk[best]),
        start=int(start[beside].min()),
        end=int(end[beside].max()),
        reverse=bool(found.reverse[best]),
    )


def decoys(queries: Sequence[Query], at_most: int) -> list[Query]:
    """Evenly spaced sequences of each split, read backwards: alike, but in no genome.

    Not complemented, so that they keep composition and repeats and lie on neither strand.
    """
    splits: dict[tuple[str, str], list[Query]] = {}
    for query in queries:
        splits.setdefault((query.task, query.split), []).append(query)
    return [
        Query(one.task, one.split, one.name, one.codes[::-1])
        for of_split in splits.values()
        for one in of_split[:: math.ceil(len(of_split) / at_most)]
    ]
