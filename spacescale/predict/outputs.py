"""Files of predicted tracks: BigWigs, bedGraphs or one Parquet table; a session of a browser."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol
from xml.etree import ElementTree

import numpy as np

from spacescale.errors import UserError
from spacescale.files import describe_size
from spacescale.genome.tracks import Track
from spacescale.predict.bigwig_files import BigWigFiles, pybigwig
from spacescale.predict.processes import ProcessDied, Remote
from spacescale.predict.regions import Stretch
from spacescale.predict.tables import pyarrow

Format = Literal["bigwig", "bedgraph", "parquet"]
FILE_PER_TRACK: dict[Format, str] = {"bigwig": ".bw", "bedgraph": ".bedGraph"}
TABLE = "tracks.parquet"
SPARE_DESCRIPTORS = 64  # that the process holds besides
BINS_AT_ONCE = 100_000  # of a Parquet table, in memory


class _Writer(Protocol):
    """chrom, starts and ends int64 (N,) in bp, values float32 (N, T)."""

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None: ...
    def finish(self) -> None: ...


def write_tracks(
    folder: Path,
    stretches: Iterable[Stretch],
    tracks: Sequence[Track],
    rows: Sequence[int],
    lengths: Mapping[str, int],
    bin_size: int,
    file_format: Format = "bigwig",
) -> list[Path]:
    """Write the rows of `tracks` into a folder while stretches of them come in order.

    A file each, or one Parquet table with a column each. lengths: of all contigs, in the order of
    the FASTA, in bp. Bins are half-open; the last of a contig ends with it. Nothing but the
    stretch at hand is in memory. Raises UserError where the library of the format is not
    installed, and where the disk is full while BigWigs are written.
    """
    if file_format == "parquet":
        paths = [folder / TABLE]
    else:
        names = file_names(tracks, rows, FILE_PER_TRACK[file_format])
        paths = [folder / name for name in names]
        _require_descriptors(len(paths))
    with ExitStack() as stack:
        if file_format == "parquet":
            writer: _Writer = _Parquet(stack, paths[0], file_names(tracks, rows, ""))
        elif file_format == "bedgraph":
            writer = _BedGraphs(stack, paths)
        else:
            writer = _BigWigs(stack, paths, lengths)
        for stretch in stretches:
            starts = stretch.start + bin_size * np.arange(len(stretch.values), dtype=np.int64)
            ends = np.minimum(starts + bin_size, lengths[stretch.chrom])
            writer.add(stretch.chrom, starts, ends, stretch.values)
        writer.finish()
    return paths


def _require_descriptors(files: int) -> None:
    """Let so many files be open at once, or raise UserError: pyBigWig crashes where it cannot."""
    needed = files + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and needed > soft:
        if hard != resource.RLIM_INFINITY and needed > hard:
            raise UserError(
                f"{files:,} tracks are {files:,} open files, and this system allows {hard:,} "
                "(ulimit -n): take fewer by --tracks"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def file_names(tracks: Sequence[Track], rows: Sequence[int], ending: str) -> list[str]:
    """Names of files that are each track's own: identifiers, all numbered where two would clash."""
    names = [re.sub(r"[^\w.+-]+", "_", tracks[row].identifier) or "track" for row in rows]
    if len(set(names)) < len(names):
        names = [f"{name}.{row}" for name, row in zip(names, rows, strict=True)]
    return [f"{name}{ending}" for name in names]


class _BigWigs:
    """The stretch at hand is written while the next one is predicted."""

    def __init__(self, stack: ExitStack, paths: Sequence[Path], lengths: Mapping[str, int]):
        pybigwig()
        self.folder, self.writing = paths[0].parent, False
        self.remote = stack.enter_context(Remote(BigWigFiles, paths, lengths))

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        self._wait()
        self.remote.call("add", chrom, starts, ends, values)
        self.writing = True

    def finish(self) -> None:
        self._wait()
        self.remote.call("close")
        if self._answer():
            raise self._unfinished("their last bytes are missing")

    def _wait(self) -> None:
        if self.writing:
            self._answer()
        self.writing = False

    def _answer(self) -> Any:
        try:
            return self.remote.answer()
        except (ProcessDied, RuntimeError) as error:  # pyBigWig raises RuntimeError
            words = str(error).strip().splitlines() or ["the process that writes died"]
            raise self._unfinished(words[-1]) from error

    def _unfinished(self, why: str) -> UserError:
        free = describe_size(shutil.disk_usage(self.folder).free)
        return UserError(
            f"cannot write BigWigs into {self.folder.parent}: they end early ({why}), with {free} "
            "left on the disk; nothing was kept"
        )


class _BedGraphs:
    def __init__(self, stack: ExitStack, paths: Sequence[Path]):
        self.files = [stack.enter_context(path.open("w")) for path in paths]

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        for file, column in zip(self.files, values.T, strict=True):
            rows = zip(starts.tolist(), ends.tolist(), column.tolist(), strict=True)
            file.writelines(f"{chrom}\t{a}\t{b}\t{value:.6g}\n" for a, b, value in rows)

    def finish(self) -> None:
        for file in self.files:
            file.flush()


class _Parquet:
    """Columns chrom, start, end and the tracks; a row is a bin."""

    def __init__(self, stack: ExitStack, path: Path, names: Sequence[str]):
        self.arrow, parquet = pyarrow("take --format bedgraph")
        chrom, whole, real = self.arrow.string(), self.arrow.int64(), self.arrow.float32()
        fields = [("chrom", chrom), ("start", whole), ("end", whole), *((n, real) for n in names)]
        self.schema = self.arrow.schema(fields)
        self.writer = stack.enter_context(parquet.ParquetWriter(str(path), self.schema))
        self.waiting: list[Any] = []

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        columns = [[chrom] * len(starts), starts, ends, *values.T]
        self.waiting.append(self.arrow.table(columns, schema=self.schema))
        if sum(map(len, self.waiting)) >= BINS_AT_ONCE:
            self.finish()

    def finish(self) -> None:
        if not self.waiting:
            return
        self.writer.write_table(self.arrow.concat_tables(self.waiting).combine_chunks())
        self.waiting = []


def write_session(path: Path, files: Sequence[Path], fasta: Path, place: str) -> None:
    """Write a session file for IGV that shows the files, beside it, on the FASTA at a place."""
    session = ElementTree.Element("Session", genome=str(fasta.resolve()), locus=place, version="8")
    resources = ElementTree.SubElement(session, "Resources")
    for file in files:
        ElementTree.SubElement(resources, "Resource", path=file.name)
    ElementTree.indent(session)
    path.write_text(ElementTree.tostring(session, encoding="unicode", xml_declaration=True) + "\n")
