"""What an importer reads from: records in their own order, split by split."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from spacescale.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """Shape of a training example: seq_length and bin_size in bp, target_length in bins."""

    seq_length: int
    bin_size: int
    target_length: int

    def check(self, place: str) -> None:
        """Raise UserError, naming `place`, if the targets cannot lie in the centre."""
        margin = self.seq_length - self.span
        if min(self.seq_length, self.bin_size, self.target_length) < 1 or margin < 0 or margin % 2:
            raise UserError(
                f"{place}: {self.target_length} bins of {self.bin_size} bp do not lie in the "
                f"centre of sequences of {self.seq_length} bp"
            )

    @property
    def span(self) -> int:
        """Length of a target interval in bp."""
        return self.target_length * self.bin_size

    @property
    def margin(self) -> int:
        """Bases of the sequence on each side of the target interval."""
        return (self.seq_length - self.span) // 2


@dataclass(frozen=True)
class Record:
    """One window as stored. place: file and number, for messages.

    codes: uint8 [seq_length], A0 C1 G2 T3 N4. targets: [bins, tracks] of a float type.
    """

    place: str
    codes: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Block:
    """Records that are read in one go: `count` of a split's, at least 1, of one file.

    first: number of the first one in the file.
    """

    split: str
    file: Path
    first: int
    count: int


class ImportSource(Protocol):
    """A training set of another tool; can be sent to other processes.

    The order of reading is that of the splits in `num_records`, and of a split's records.
    """

    @property
    def geometry(self) -> Geometry:
        """The shape of every example."""
        ...

    @property
    def num_tracks(self) -> int:
        """Columns of the targets."""
        ...

    @property
    def num_records(self) -> Mapping[str, int]:
        """Records of each split, {split: records}."""
        ...

    @property
    def files(self) -> list[Path]:
        """Every file that is read, the windows BED and targets table apart."""
        ...

    def blocks(self, executor: Executor | None) -> list[Block]:
        """Return all records as blocks in the order of reading.

        executor: where files are read if that takes it; None reads here. Raises UserError unless
        the files hold as many records as `num_records` says.
        """
        ...

    def records(self, block: Block) -> Iterator[Record]:
        """Yield the records of a block in order."""
        ...
