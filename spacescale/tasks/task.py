"""A task: sequences with what is to be said of each, in splits for training, validation and test.

Shapes: N sequences, L bp (each its own), C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["classes", "labels", "values"]
Assay = Literal["lentimpra", "chip", "splicing", "insertseq"]
SPLITS = ("train", "valid", "test")


class Locus(NamedTuple):
    """Where in a genome a sequence lies, bp, 0-based half-open; minus: it is the minus strand's."""

    contig: str
    start: int
    end: int
    minus: bool = False


@dataclass(frozen=True)
class Examples:
    """The sequences of one split.

    codes: N arrays of base codes uint8 (L,), see `genome.dna`. targets: of a task of `classes` the
    number of the class, int64 (N,); of `labels` 0 and 1, of `values` numbers, both float32 (N, C)
    with NaN for what is not known. names: N words that say which sequence it is: its name or place
    in the file, or FILE:LINE. groups: N words where sequences that belong together, as a place and
    its reverse complement, share one; () where none are known. offsets: of values that are
    differences of log-odds from something known, as of splicing, that, float32 (N, C). loci: N
    places, of all sequences or () of none. sources: N words, FILE:LINE or file and row, for
    messages; () of what was read from no file.
    """

    codes: list[np.ndarray]
    targets: np.ndarray
    names: list[str]
    groups: tuple[str, ...] = ()
    offsets: np.ndarray | None = None
    loci: tuple[Locus, ...] = ()
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> Examples:
        """These rows, int64, in this order."""
        chosen = rows.tolist()
        return Examples(
            [self.codes[row] for row in chosen],
            self.targets[rows],
            [self.names[row] for row in chosen],
            tuple(self.groups[row] for row in chosen) if self.groups else (),
            None if self.offsets is None else self.offsets[rows],
            tuple(self.loci[row] for row in chosen) if self.loci else (),
            tuple(self.sources[row] for row in chosen) if self.sources else (),
        )

    @property
    def lengths(self) -> np.ndarray:
        """Length of each sequence in bp, int64 (N,)."""
        return np.array([len(codes) for codes in self.codes], dtype=np.int64)


@dataclass(frozen=True)
class Task:
    """What is to be learnt.

    name: as results call it. outputs: what the C classes, labels or values are called. splits:
    those of SPLITS that the files hold or that were cut off `train`. notes: what was decided where
    the files left it open, as how validation was cut off; for whoever reads the results. assay:
    what was measured, of archives of Tang and Koo; chip: ChIP- or eCLIP-seq.
    """

    name: str
    path: Path
    layout: str
    kind: Kind
    outputs: tuple[str, ...]
    splits: dict[str, Examples]
    notes: list[str] = field(default_factory=list)
    assay: Assay | None = None

    def longest(self) -> tuple[str, int]:
        """Where the longest sequence stands, with its name, and how long it is, bp."""
        examples = max(self.splits.values(), key=lambda one: int(one.lengths.max()))
        row = int(examples.lengths.argmax())
        place = examples.sources[row] if examples.sources else str(self.path)
        name = examples.names[row]
        return place if place.endswith(name) else f"{place}: {name}", len(examples.codes[row])
