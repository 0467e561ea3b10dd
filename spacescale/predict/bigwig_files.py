"""BigWigs of predictions, written by pyBigWig in a process of their own.

Where the disk is full, pyBigWig ends the process, or ends the file early and does not say so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.errors import UserError

MAGIC = bytes.fromhex("26fc8f88")  # first and last bytes of a file that is whole


class BigWigFiles:
    """A file for each track, open at once; for a process of its own, as it drops its stderr."""

    def __init__(self, paths: Sequence[Path], lengths: Mapping[str, int]):
        """lengths: of all contigs, in bp, in the order that the files are to have."""
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)  # pyBigWig's own words; who asked says it all
        self.paths = paths
        self.files = [pybigwig().open(str(path), "w") for path in paths]
        for file in self.files:
            file.addHeader(list(lengths.items()))

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        """Add values float32 (N, files) of bins, int64 (N,) in bp, behind all that came before."""
        names = np.full(len(starts), chrom)
        for file, column in zip(self.files, values.astype(np.float64).T, strict=True):
            file.addEntries(names, starts, ends=ends, values=np.ascontiguousarray(column))

    def close(self) -> list[Path]:
        """Finish the files; returns those that are not whole."""
        for file in self.files:
            file.close()
        return [path for path in self.paths if not _is_whole(path)]


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        file.seek(-len(MAGIC), os.SEEK_END)
        return start == file.read() == MAGIC


def pybigwig() -> Any:
    """The library; UserError says what else can be done without."""
    try:
        import pyBigWig
    except ImportError:
        raise UserError(
            "BigWigs are written by pyBigWig: pip install 'spacescale[predict]', or take "
            "--format bedgraph or parquet"
        ) from None
    return pyBigWig
