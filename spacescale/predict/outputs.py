"""Files of predicted tracks: a BigWig or bedGraph each, and what a genome browser opens at once."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal, Protocol
from xml.etree import ElementTree

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.tracks import Track
from spacescale.predict.regions import Stretch

Format = Literal["bigwig", "bedgraph"]
ENDINGS: dict[Format, str] = {"bigwig": ".bw", "bedgraph": ".bedGraph"}


SPARE_DESCRIPTORS = 64  # that the process holds besides


class _Writer(Protocol):
    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None: ...
    def close(self) -> None: ...


def write_tracks(
    folder: Path,
    stretches: Iterable[Stretch],
    tracks: Sequence[Track],
    rows: Sequence[int],
    lengths: Mapping[str, int],
    bin_size: int,
    file_format: Format = "bigwig",
) -> list[Path]:
    """Write the rows of `tracks` into a folder, a file each, while stretches of them come in order.

    lengths: of all contigs, in the order of the FASTA, in bp. Bins are half-open; the last of a
    contig ends with it. Nothing but the stretch at hand is in memory. Raises UserError where the
    library for BigWigs is not installed.
    """
    paths = [folder / name for name in file_names(tracks, rows, ENDINGS[file_format])]
    _require_descriptors(len(paths))
    with ExitStack() as stack:
        writers = []
        for path in paths:
            writer = _BigWig(path, lengths) if file_format == "bigwig" else _BedGraph(path)
            stack.callback(writer.close)
            writers.append(writer)
        for stretch in stretches:
            starts = stretch.start + bin_size * np.arange(len(stretch.values), dtype=np.int64)
            ends = np.minimum(starts + bin_size, lengths[stretch.chrom])
            for writer, values in zip(writers, stretch.values.T, strict=True):
                writer.add(stretch.chrom, starts, ends, values)
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


class _BigWig:
    def __init__(self, path: Path, lengths: Mapping[str, int]):
        self.file: Any = _pybigwig().open(str(path), "w")
        self.file.addHeader(list(lengths.items()))

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        names = np.full(len(starts), chrom)
        self.file.addEntries(names, starts, ends=ends, values=values.astype(np.float64))

    def close(self) -> None:
        self.file.close()


class _BedGraph:
    def __init__(self, path: Path):
        self.file: IO[str] = path.open("w")

    def add(self, chrom: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        rows = zip(starts.tolist(), ends.tolist(), values.tolist(), strict=True)
        self.file.writelines(f"{chrom}\t{a}\t{b}\t{value:.6g}\n" for a, b, value in rows)

    def close(self) -> None:
        self.file.close()


def _pybigwig() -> Any:
    try:
        import pyBigWig
    except ImportError:
        raise UserError(
            "BigWigs are written by pyBigWig: pip install 'spacescale[predict]', or take "
            "--format bedgraph"
        ) from None
    return pyBigWig


def write_session(path: Path, files: Sequence[Path], fasta: Path, place: str) -> None:
    """Write a session file for IGV that shows the files, beside it, on the FASTA at a place."""
    session = ElementTree.Element("Session", genome=str(fasta.resolve()), locus=place, version="8")
    resources = ElementTree.SubElement(session, "Resources")
    for file in files:
        ElementTree.SubElement(resources, "Resource", path=file.name)
    ElementTree.indent(session)
    path.write_text(ElementTree.tostring(session, encoding="unicode", xml_declaration=True) + "\n")
