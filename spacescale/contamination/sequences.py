"""The sequences that are looked for, and what was found of each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.contamination.search import LONGEST_PIECE, Found
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.predict.sequence_embeddings import read_sequences
from spacescale.tasks.archive_files import HDF5
from spacescale.tasks.genome_places import Genomes
from spacescale.tasks.read_task import holds_task, read_task, task_name
from spacescale.tasks.rows import SPLIT_OF, encode_all
from spacescale.tasks.split_files import TABLES
from spacescale.tasks.suites import find_tasks
from spacescale.tasks.tables import form_of, read_table, stem_of
from spacescale.tasks.task import Kind


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


def read_queries(
    paths: Sequence[Path], genome: Genomes | None = None, kind: Kind | None = None
) -> list[Query]:
    """The sequences of tasks, or of files that are none.

    Tasks are a folder's, by the names that `suite` gives them, those of archives that lie in it,
    and a file that is one whole. Other files are FASTA, 2bit, or tables with a column `sequence` or
    `seq`; their split is that of which the file has the name. genome, kind: see `read_task`. Raises
    UserError naming file and line, or two tasks of one name.
    """
    queries: list[Query] = []
    places: dict[str, Path] = {}
    for path in paths:
        tasks = _tasks_of(path)
        for name, place in tasks:
            if (other := places.setdefault(name, place)) != place:
                raise UserError(
                    f"two tasks are called {name}: {other} and {place}; expected a folder of both, "
                    "in which they are called by their paths, or a table for each"
                )
            queries += _of_task(name, place, genome, kind)
        if not tasks:
            queries += _of_file(path)
    return queries


def _tasks_of(path: Path) -> list[tuple[str, Path]]:
    """Names and places of the tasks of a folder or file; [] for a file that is none."""
    if path.is_dir():
        return list(find_tasks(path).items())
    is_one = form_of(path) in HDF5 or holds_task(path)
    return [(task_name(path), path)] if is_one else []


def _of_task(name: str, path: Path, genome: Genomes | None, kind: Kind | None) -> list[Query]:
    task = read_task(path, genome=genome, kind=kind, name=name)
    return [
        Query(task.name, split, name, codes)
        for split, examples in task.splits.items()
        for name, codes in zip(examples.names, examples.codes, strict=True)
    ]


def _of_file(path: Path) -> list[Query]:
    word = stem_of(path).split(".")[0]
    split = SPLIT_OF.get(word.lower(), "-")
    task = word if split == "-" else path.absolute().parent.name
    if form_of(path) not in TABLES:
        return [Query(task, split, one.name, one.codes) for one in read_sequences(path)]
    table = read_table(path)
    codes = encode_all(table.need("sequence", "seq"), table.places)
    return [Query(task, split, *one) for one in zip(table.row_names, codes, strict=True)]


def digest_of(codes: np.ndarray) -> str:
    """By which a sequence, codes uint8 (L,), is known again: 12 digits of its SHA-256."""
    return hashlib.sha256(codes.astype(np.uint8).tobytes()).hexdigest()[:12]


def cut(codes: np.ndarray) -> list[np.ndarray]:
    """Cut a sequence into pieces of equal length, as few as may be searched."""
    return np.array_split(codes, max(math.ceil(codes.size / LONGEST_PIECE), 1))


@dataclass(frozen=True)
class Hit:
    """Where a sequence, or its like, lies.

    identity: share of equal bases in the aligned columns, gaps included and N left aside.
    aligned_bp: bases of the sequence that are aligned, N left aside. chunk, start, end: where the
    best piece lies, and the others that lie beside it in the same chunk; as `Found` counts.
    """

    identity: float
    aligned_bp: int
    chunk: int
    start: int
    end: int
    reverse: bool


def join(
    found: Found,
    owners: np.ndarray,
    lengths: np.ndarray,
    least_score: np.ndarray,
    identities: Sequence[float] = (),
    least_bp: np.ndarray | None = None,
) -> dict[tuple[int, int], Hit]:
    """The hits of sequences from those of their pieces: (sequence, kind) → hit.

    owners: which sequence each piece is of, int64 (pieces,), ascending. lengths: of the sequences,
    bp. least_score: below it the hit of a piece does not count, float64 (sequences,). A hit is made
    of those pieces that are alike enough, to the first of `identities`, that least_bp, float64
    (sequences,), of the sequence are aligned so; where it has no such pieces, of all.
    """
    owner = owners[found.piece]
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row in np.flatnonzero(found.score >= least_score[owner]).tolist():
        rows_of.setdefault((int(owner[row]), int(found.kind[row])), []).append(row)
    hits = {}
    for key, rows in rows_of.items():
        least = 0.0 if least_bp is None else float(least_bp[key[0]])
        chosen = _best_pieces(found, np.array(rows), identities, least)
        hits[key] = _join(found, chosen, int(lengths[key[0]]))
    return hits


def _best_pieces(
    found: Found, rows: np.ndarray, identities: Sequence[float], least_bp: float
) -> np.ndarray:
    for identity in identities:
        chosen = _pieces_alike(found, rows, identity)
        if found.aligned_bp[chosen].sum() >= least_bp and chosen.size:
            return chosen
    return rows


def _pieces_alike(found: Found, rows: np.ndarray, identity: float) -> np.ndarray:
    """As many of the pieces as together have an identity, the most alike first."""
    each = found.matched[rows] / found.columns[rows]
    matched = columns = 0
    chosen = []
    for row in rows[np.argsort(-each, kind="stable")].tolist():
        with_it = matched + int(found.matched[row]), columns + int(found.columns[row])
        if with_it[0] / with_it[1] >= identity:
            matched, columns = with_it
            chosen.append(row)
    return np.array(sorted(chosen), dtype=np.int64)


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
        aligned_bp=int(found.aligned_bp[rows].sum()),
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
