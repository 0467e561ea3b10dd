"""Sequences that are there twice: within a split and between splits, on either strand.

Sequences are compared as base codes: whatever was read as N is N, and N equals only N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from spacescale.genome.dna import reverse_complement
from spacescale.tasks.task import Examples, Task


@dataclass(frozen=True)
class Counts:
    """Two counts: as the sequences stand, and where a reverse complement is the same sequence."""

    same_strand: int
    either_strand: int


@dataclass(frozen=True)
class Duplicates:
    """What is there twice, within a split or between two.

    sequences: different ones that are there twice, or in both splits. rows: within a split, those
    that repeat one before them; between two, those of the later split whose sequence is in the
    other. contradictory: of `sequences` those with more than one known target; 0 for `values`,
    which are measured and differ.
    """

    sequences: Counts
    rows: Counts
    contradictory: Counts


@dataclass(frozen=True)
class DuplicateReport:
    """Duplicates of a task.

    within: by split. between: by pair of splits, in the order train, valid, test. shared_groups:
    by pair, groups (`Examples.groups`) that are in both.
    """

    within: dict[str, Duplicates]
    between: dict[tuple[str, str], Duplicates]
    shared_groups: dict[tuple[str, str], int]


def either_strand(codes: np.ndarray) -> bytes:
    """What a sequence and its reverse complement, codes uint8 (L,), have in common."""
    return min(codes.tobytes(), reverse_complement(codes).tobytes())


def sequence_numbers(examples: Sequence[Examples], strands: bool) -> list[np.ndarray]:
    """Of each split int64 (N,), where equal numbers mean equal sequences across all of them.

    strands: whether a reverse complement is the same sequence.
    """
    number_of: dict[bytes, int] = {}
    return [
        np.array(
            [
                number_of.setdefault(either_strand(c) if strands else c.tobytes(), len(number_of))
                for c in one.codes
            ],
            dtype=np.int64,
        )
        for one in examples
    ]


def find_duplicates(task: Task) -> DuplicateReport:
    """Count what occurs twice in a task."""
    names, examples = list(task.splits), list(task.splits.values())
    targets = [None if task.kind == "values" else one.targets for one in examples]
    as_is, both = (sequence_numbers(examples, strands) for strands in (False, True))
    pairs = list(combinations(range(len(names)), 2))
    return DuplicateReport(
        {
            names[i]: _counted(_within(as_is[i], targets[i]), _within(both[i], targets[i]))
            for i in range(len(names))
        },
        {
            (names[i], names[j]): _counted(
                *(_between(n[i], n[j], targets[i], targets[j]) for n in (as_is, both))
            )
            for i, j in pairs
        },
        {
            (names[i], names[j]): len(set(examples[i].groups) & set(examples[j].groups))
            for i, j in pairs
        },
    )


def copied(examples: Examples, others: Sequence[Examples]) -> np.ndarray:
    """Of which rows the others hold a copy, bool (N,).

    A copy is the same sequence, its reverse complement, or one of the same group.
    """
    *seen, asked = sequence_numbers([*others, examples], strands=True)
    found = np.isin(asked, np.concatenate(seen))
    if examples.groups:
        groups = {group for one in others for group in one.groups}
        found |= np.array([group in groups for group in examples.groups])
    return found


def without_copies(task: Task) -> np.ndarray:
    """Rows of test, int64 in their order, of which no other split has a copy (`copied`)."""
    others = [examples for split, examples in task.splits.items() if split != "test"]
    return np.flatnonzero(~copied(task.splits["test"], others))


def _counted(same: tuple[int, int, int], either: tuple[int, int, int]) -> Duplicates:
    return Duplicates(*(Counts(*pair) for pair in zip(same, either, strict=True)))


def _within(numbers: np.ndarray, targets: np.ndarray | None) -> tuple[int, int, int]:
    """Sequences, rows and contradictory sequences of `Duplicates`."""
    found, counts = np.unique(numbers, return_counts=True)
    twice = found[counts > 1]
    return twice.size, int(numbers.size - found.size), _contradictory(twice, numbers, targets)


def _between(
    first: np.ndarray,
    second: np.ndarray,
    first_targets: np.ndarray | None,
    second_targets: np.ndarray | None,
) -> tuple[int, int, int]:
    shared = np.intersect1d(first, second)
    targets = None
    if first_targets is not None and second_targets is not None:
        targets = np.concatenate([first_targets, second_targets])
    contradictory = _contradictory(shared, np.concatenate([first, second]), targets)
    return shared.size, int(np.isin(second, shared).sum()), contradictory


def _contradictory(chosen: np.ndarray, numbers: np.ndarray, targets: np.ndarray | None) -> int:
    """How many of the chosen sequences have more than one known target in some output."""
    if targets is None:
        return 0
    contradicted: set[int] = set()
    for column in targets.reshape(len(targets), -1).T:
        known = np.isin(numbers, chosen) & ~np.isnan(column)
        different = np.unique(np.column_stack([numbers[known], column[known]]), axis=0)
        found, counts = np.unique(different[:, 0], return_counts=True)
        contradicted.update(found[counts > 1].astype(int).tolist())
    return len(contradicted)
