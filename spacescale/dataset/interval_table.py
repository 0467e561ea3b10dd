"""Tables of a dataset that say which stretch of the genome belongs to which split."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.genome.intervals import Interval


@dataclass(frozen=True)
class IntervalTable:
    """Intervals, one per row: chrom and split as str, start and end as int64 [rows], bp.

    0-based half-open, in genome order; start is never negative and end never past the contig.
    """

    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray
    split: np.ndarray

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> "IntervalTable":
        """Return at least one interval as a table."""
        rows = [(i.chrom, i.start, i.end, i.split) for i in intervals]
        chrom, start, end, split = (np.array(column) for column in zip(*rows, strict=True))
        return cls(chrom, start, end, split)

    @classmethod
    def read(cls, path: Path) -> "IntervalTable":
        """Read windows.bed or sequence.bed; UserError where it is damaged."""
        try:
            rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
            chrom, start, end, split = np.array(rows, dtype=str).T
            return cls(chrom, start.astype(np.int64), end.astype(np.int64), split)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(
                f"{path} is damaged: it must have the columns chrom, start, end, split ({error})"
            ) from error

    def __len__(self) -> int:
        return self.start.size

    def of_split(self, split: str) -> "IntervalTable":
        """Return the rows of a split."""
        here = self.split == split
        return IntervalTable(self.chrom[here], self.start[here], self.end[here], self.split[here])

    def intervals(self) -> list[Interval]:
        """Return the rows as intervals."""
        columns = (self.chrom, self.start, self.end, self.split)
        return [Interval(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def write_intervals(path: Path, intervals: Iterable[Interval]) -> None:
    """Write a table that `IntervalTable.read` reads back: chrom, start, end, split; no header."""
    write_text(path, "".join(f"{i.chrom}\t{i.start}\t{i.end}\t{i.split}\n" for i in intervals))
