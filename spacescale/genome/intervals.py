"""Genomic intervals, 0-based half-open, and the BED files that list them with a split."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from spacescale.errors import UserError
from spacescale.genome.aliases import describe_unknown


@dataclass(frozen=True, order=True)
class Interval:
    """A stretch of a contig, 0-based half-open in bp, that belongs to one split."""

    chrom: str
    start: int
    end: int
    split: str


def tile(interval: Interval, span_bp: int, stride_bp: int) -> Iterator[Interval]:
    """Yield the intervals of span_bp that fit, from the interval's start on, every stride_bp."""
    for start in range(interval.start, interval.end - span_bp + 1, stride_bp):
        yield Interval(interval.chrom, start, start + span_bp, interval.split)


def split_hash(windows: Iterable[Interval]) -> str:
    """Return the SHA-256 over chrom, start, end and split of the windows, in sorted order."""
    lines = (f"{w.chrom}\t{w.start}\t{w.end}\t{w.split}\n" for w in sorted(windows))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def bed_contigs(path: Path) -> list[str]:
    """Return the contig names of a BED as they stand there, each once."""
    return list(dict.fromkeys(columns[0] for _, columns in _read_rows(path)))


def read_split_bed(
    path: Path, lengths: Mapping[str, int], aliases: Mapping[str, str], offer_auto: bool = False
) -> list[Interval]:
    """Read a BED of chrom, start, end, split (tabs; '#', track and browser lines are skipped).

    lengths: contig lengths in bp of the genome; aliases: {name in the BED: genome name};
    offer_auto: propose `--aliases auto` for unknown names that it would match. Returns intervals
    under genome names, in the order of the file. Raises UserError with file:line for wrong columns
    or coordinates, unknown contigs and overlaps: overlapping intervals would put the same bases
    into two splits, or twice into one.
    """
    rows = _read_rows(path)
    _refuse_unknown(path, rows, lengths, aliases, offer_auto)
    numbered = [
        (_parse_row(f"{path}:{number}", columns, lengths, aliases), number)
        for number, columns in rows
    ]
    _refuse_overlaps(path, sorted(numbered))
    return [interval for interval, _ in numbered]


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return line numbers and columns of the lines that name an interval."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the BED file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith(("#", "track ", "browser ")):
            rows.append((number, _split_columns(f"{path}:{number}", line)))
    if not rows:
        raise UserError(f"{path} lists no interval")
    return rows


def _split_columns(place: str, line: str) -> list[str]:
    columns = line.split("\t")
    if len(columns) < 4 or not columns[3].strip():
        raise UserError(
            f"{place}: expected chrom, start, end, split separated by tabs, found {line!r}"
        )
    return columns


def _refuse_unknown(
    path: Path,
    rows: list[tuple[int, list[str]]],
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    offer_auto: bool,
) -> None:
    lines: dict[str, int] = {}
    for number, columns in rows:
        if aliases.get(columns[0], columns[0]) not in lengths:
            lines.setdefault(columns[0], number)
    if lines:
        first = next(iter(lines.values()))
        raise UserError(f"{path}:{first}: {describe_unknown(lines, lengths, offer_auto)}")


def _parse_row(
    place: str, columns: list[str], lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> Interval:
    name, start, end = aliases.get(columns[0], columns[0]), columns[1], columns[2]
    if not (start.isdecimal() and end.isdecimal()):
        raise UserError(f"{place}: start and end must be whole numbers, found {start!r}, {end!r}")
    if int(start) >= int(end):
        raise UserError(f"{place}: start {start} is not before end {end}")
    if int(end) > lengths[name]:
        raise UserError(
            f"{place}: end {end} lies beyond {name}, which has {lengths[name]} bp; "
            "another assembly?"
        )
    return Interval(name, int(start), int(end), columns[3].strip())


def _refuse_overlaps(path: Path, numbered: list[tuple[Interval, int]]) -> None:
    for (before, first), (after, second) in pairwise(numbered):
        if before.chrom == after.chrom and after.start < before.end:
            place = f"{after.chrom}:{after.start}-{after.end} ({after.split})"
            other = f"line {first}, {before.start}-{before.end} ({before.split})"
            raise UserError(f"{path}:{second}: {place} overlaps {other}")
