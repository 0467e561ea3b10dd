"""Coverage of one track, whatever the format of its file: BigWig, bedGraph, or peaks."""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.aliases import auto_aliases, describe_tried, match_styles, shorten
from spacescale.genome.bigwig import BigWig
from spacescale.genome.contig_ends import MAX_START_PAST_END_BP
from spacescale.genome.file_kinds import BIGWIG, kind_of, refuse_other_kinds
from spacescale.genome.interval_tracks import read_bedgraph, read_peaks
from spacescale.genome.reads import coverage_of_reads
from spacescale.genome.text_files import is_gzip, numbered_lines
from spacescale.genome.tracks import Track

_FORMAT_OF_SUFFIX = {
    ".bw": "bigwig", ".bigwig": "bigwig",
    ".bedgraph": "bedgraph", ".bdg": "bedgraph", ".bg": "bedgraph",
    ".bed": "peaks", ".narrowpeak": "peaks", ".broadpeak": "peaks",
}  # fmt: skip
_HEAD_BYTES = 4096


class Coverage(Protocol):
    """An open coverage file; a context manager.

    contigs: {name in the file: length in bp if lengths_known, else the furthest start of an
    interval}. lines: {name: the line of that interval}, empty if lengths_known.
    background: what bases that the file does not mention have, NaN (missing) or 0.
    """

    path: Path
    contigs: dict[str, int]
    lines: dict[str, int]
    lengths_known: bool
    background: float

    def __enter__(self) -> Self: ...
    def __exit__(self, *_) -> None: ...

    def read_windows(self, chrom: str, starts: np.ndarray, width: int) -> np.ndarray:
        """Return float32 [windows, width], one value a base, NaN where missing.

        starts: int64 [windows] in bp, 0-based, in any order; every window lies inside a contig of
        `contigs`.
        """
        ...

    def past_end(self, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return {contig: how far past its end each of these intervals ends, in bp}.

        lengths: {name in the file: bp of that contig}. What is past the end is never read.
        """
        ...


def open_coverage(path: Path, track: Track) -> Coverage:
    """Open the coverage of a track; the content tells the format where it can, else the name.

    The column `peak_value` of the targets table says what a base inside a peak has: 1 (default)
    or `signal`, the peak's signalValue. Raises UserError naming the file, and the line in text.
    """
    peak_value = track.extra.get("peak_value", "").strip().lower() or "1"
    if peak_value not in ("1", "signal"):
        raise UserError(f"track {track.identifier}: peak_value {peak_value!r} must be 1 or signal")
    kind = _format_of(path)
    if kind == "bigwig":
        return BigWig(path)
    return read_bedgraph(path) if kind == "bedgraph" else read_peaks(path, peak_value)


def _format_of(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    by_suffix = _FORMAT_OF_SUFFIX.get(Path(name).suffix)
    if by_suffix == "bigwig" and (not path.is_file() or not is_gzip(path)):
        return "bigwig"
    head = _head(path)
    if kind_of(head) is BIGWIG:
        return "bigwig"
    return _format_of_text(path, head, by_suffix)


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"no such coverage file: {path}")
    refuse_other_kinds(path, "coverage", {"gzip", "bigwig"}, coverage_of_reads(path))
    try:
        with gzip.open(path, "rb") if is_gzip(path) else path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is a damaged or truncated gzip file ({error})") from error


def _format_of_text(path: Path, head: bytes, by_suffix: str | None) -> str:
    if b"type=bedGraph" in head.split(b"\n", 1)[0]:
        return "bedgraph"
    if not path.stat().st_size and (by_suffix is None or path.suffix == ".gz"):
        raise UserError(f"{path} is an empty file")
    _, line = next(numbered_lines(path, "coverage"), (0, b""))
    columns = line.split()
    looks_like_bedgraph = len(columns) == 4 and _is_number(columns[3])
    if by_suffix == "peaks" and looks_like_bedgraph:
        raise UserError(
            f"{path} has four columns, the last a number, like a bedGraph. If it is one, call it "
            ".bedGraph; if these are peaks, leave out the fourth column"
        )
    if by_suffix is not None:
        return by_suffix
    if not looks_like_bedgraph:
        raise UserError(
            f"{path}: cannot tell what this is; tracks are BigWig (.bw), bedGraph (.bedGraph) or "
            "peaks (.bed, .narrowPeak, .broadPeak), the text ones plain or .gz"
        )
    return "bedgraph"


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class MatchedContigs:
    """The contigs of a file under the genome's names.

    covered: those it has coverage for. misfits: {contig of another length: what to tell of it};
    they are not covered. named: those that the file names, misfits among them.
    """

    covered: set[str]
    misfits: dict[str, str]
    named: set[str]


@dataclass(frozen=True)
class TrackContigs:
    """The contigs of a coverage file, small enough to keep for thousands of tracks.

    As in Coverage; covers_all: contigs that the file does not name are covered, too.
    """

    path: Path
    contigs: dict[str, int]
    lines: dict[str, int]
    lengths_known: bool
    covers_all: bool

    @classmethod
    def of(cls, coverage: Coverage) -> "TrackContigs":
        """Take them from an open file."""
        covers_all = not np.isnan(coverage.background)
        return cls(
            coverage.path, coverage.contigs, coverage.lines, coverage.lengths_known, covers_all
        )

    def auto_aliases(self, lengths: Mapping[str, int]) -> dict[str, str]:
        """Match names that differ only in style from the genome's, by length where it is known."""
        if self.lengths_known:
            return auto_aliases(self.contigs, lengths)
        return match_styles(self.contigs, lengths)

    def match_genome(
        self, genome_path: Path, lengths: Mapping[str, int], aliases: Mapping[str, str]
    ) -> "MatchedContigs":
        """Return which contigs of the genome this track covers, and which do not fit.

        lengths: {contig of the genome: bp}. A file that names no contig, because it lists no
        interval, covers all of them as one without values does. Raises UserError when the file has
        no contig of the genome, or two names for one.
        """
        if not self.contigs:
            return MatchedContigs(set(lengths), {}, set())
        shared = {n: aliases.get(n, n) for n in self.contigs if aliases.get(n, n) in lengths}
        if not shared:
            raise self._no_common_name(genome_path, lengths)
        name_of: dict[str, str] = {}
        for name, known in shared.items():
            if name_of.setdefault(known, name) != name:
                raise UserError(
                    f"{self.path}: {name_of[known]} and {name} are both {known} of {genome_path}"
                )
        faults = {k: self._fault(name, k, lengths[k], genome_path) for k, name in name_of.items()}
        misfits = {known: fault for known, fault in faults.items() if fault}
        covered = set(lengths) if self.covers_all else set(name_of)
        return MatchedContigs(covered - misfits.keys(), misfits, set(name_of))

    def _fault(self, name: str, known: str, length: int, genome_path: Path) -> str | None:
        found = self.contigs[name]
        if self.lengths_known and found != length:
            return (
                f"{self.path}: contig {name} has {found} bp, but {known} in {genome_path} has "
                f"{length}"
            )
        if found > length + MAX_START_PAST_END_BP:
            return (
                f"{self.path}:{self.lines[name]}: start {found} lies far beyond {known}, which has "
                f"{length} bp in {genome_path}"
            )
        return None

    def _no_common_name(self, genome_path: Path, lengths: Mapping[str, int]) -> UserError:
        message = (
            f"{self.path} shares no contig name with {genome_path}: it has "
            f"{shorten(self.contigs)}; the FASTA has {shorten(lengths)}"
        )
        if same := self.auto_aliases(lengths):
            pairs = shorten([f"{name} = {known}" for name, known in same.items()])
            by = "name and length" if self.lengths_known else "name"
            return UserError(f"{message}. By {by} {pairs}: add --aliases auto")
        names = {n: bp if self.lengths_known else None for n, bp in self.contigs.items()}
        return UserError(
            f"{message}. --aliases auto has no match: {describe_tried(names, lengths)}. If it is "
            "the same assembly, add --aliases FILE with two columns, the name in the tracks and "
            "the name in the FASTA, or UCSC's chromAlias.txt"
        )
