"""Tables of saturation mutagenesis by massively parallel reporter assays (MPRA).

Format: that of Kircher et al. 2019 (`elements.tsv`): a row is a variant of an element, with Pos
from 1 and Alt `-` where the base is deleted; Coefficient is the log2 effect on expression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.aliases import shorten, suggest
from spacescale.genome.dna import N, encode
from spacescale.genome.text_files import split_cells, text_lines

COLUMNS = (
    "Chrom", "Pos", "Ref", "Alt", "Barcodes", "Coefficient", "pValue", "Element", "Release",
)  # fmt: skip
DELETED = "-"


@dataclass(frozen=True)
class Measured:
    """The effect of one variant on the expression of a reporter.

    start: 0-based, in the release's coordinates; alt: "" for a deletion.
    """

    line: int  # of the table
    element: str
    chrom: str
    start: int
    ref: str
    alt: str
    barcodes: int
    coefficient: float
    p_value: float


@dataclass(frozen=True)
class LeftOut:
    """A row that is not scored."""

    line: int
    element: str
    reason: str


@dataclass(frozen=True)
class Element:
    """A stretch of a genome, pieced together from the Ref of its rows.

    start: 0-based. codes: uint8 (bp,), N where no row tells. like: name of another element of the
    table with the same bases, measured once more or in other cells, "" for the first of them.
    """

    name: str
    chrom: str
    start: int
    codes: np.ndarray
    like: str

    @property
    def unknown(self) -> int:
        """Bases that no row tells."""
        return int((self.codes == N).sum())


@dataclass(frozen=True)
class MpraTable:
    """What is read of a table: elements by name, rows to score, and others, in the file's order."""

    elements: dict[str, Element]
    measured: list[Measured]
    left_out: list[LeftOut]


def read_mpra(
    path: Path, release: str, patterns: Sequence[str] = (), fewest_barcodes: int = 10
) -> MpraTable:
    """Read the rows of one release of the genome, of elements whose names fit a pattern, or of all.

    Raises UserError naming file and line for rows that are none, a release or element that is not
    there, or two Ref at one place.
    """
    rows = _rows(path)
    releases = dict.fromkeys(row["Release"] for _, row in rows)
    if release not in releases:
        raise UserError(f"{path}: no release {release!r}{suggest(release, releases)}")
    rows = [(line, row) for line, row in rows if row["Release"] == release]
    names = dict.fromkeys(row["Element"] for _, row in rows)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{path}: no element {pattern!r}{suggest(pattern, names)}")
    measured: list[Measured] = []
    left_out: list[LeftOut] = []
    told: list[Measured] = []  # rows that tell a base, scored or not
    for line, row in rows:
        name = row["Element"]
        if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if "NA" in row.values():
            left_out.append(LeftOut(line, name, "NA"))
            continue
        found = _measured(f"{path}:{line}", line, row)
        told.append(found)
        if found.barcodes < fewest_barcodes:
            left_out.append(LeftOut(line, name, f"fewer than {fewest_barcodes} barcodes"))
        else:
            measured.append(found)
    return MpraTable(_elements(path, told), measured, left_out)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    lines = text_lines(path, "a table of saturation mutagenesis")
    _, header = next(lines, (0, ""))
    columns = header.split("\t")
    if missing := [name for name in COLUMNS if name not in columns]:
        raise UserError(f"{path}:1: no column {shorten(missing)}; expected {', '.join(COLUMNS)}")
    rows = []
    for number, line in lines:
        if not line.strip():
            continue
        cells = split_cells(f"{path}:{number}", line)
        if len(cells) != len(columns):
            raise UserError(f"{path}:{number}: {len(cells)} cells; the header has {len(columns)}")
        rows.append((number, dict(zip(columns, cells, strict=True))))
    if not rows:
        raise UserError(f"{path}: a table without rows")
    return rows


def _measured(place: str, line: int, row: dict[str, str]) -> Measured:
    try:
        start, barcodes = int(row["Pos"]) - 1, int(row["Barcodes"])
        coefficient, p_value = float(row["Coefficient"]), float(row["pValue"])
    except ValueError as error:
        raise UserError(f"{place}: Pos, Barcodes, Coefficient or pValue: {error}") from None
    ref, alt = row["Ref"].upper(), row["Alt"].upper()
    bases = set("ACGT")
    if ref not in bases or alt not in bases - {ref} | {DELETED}:
        raise UserError(f"{place}: {ref}>{alt}; expected one base A, C, G or T, and another or -")
    if start < 0 or not math.isfinite(coefficient):
        raise UserError(f"{place}: Pos {start + 1}, Coefficient {coefficient}: expected numbers")
    alt = alt.replace(DELETED, "")
    return Measured(
        line, row["Element"], row["Chrom"], start, ref, alt, barcodes, coefficient, p_value
    )


def _elements(path: Path, rows: Sequence[Measured]) -> dict[str, Element]:
    by_name: dict[str, dict[tuple[str, int], str]] = {}
    for row in rows:
        bases = by_name.setdefault(row.element, {})
        if bases.setdefault((row.chrom, row.start), row.ref) != row.ref:
            raise UserError(
                f"{path}:{row.line}: Ref {row.ref} of {row.element} at {row.chrom}:"
                f"{row.start + 1}; an earlier row has {bases[row.chrom, row.start]}"
            )
    found = {}
    for name, bases in by_name.items():
        chroms = {chrom for chrom, _ in bases}
        if len(chroms) > 1:
            raise UserError(f"{path}: {name} lies on {shorten(sorted(chroms))}; expected one")
        start = min(at for _, at in bases)
        codes = np.full(max(at for _, at in bases) + 1 - start, N, dtype=np.uint8)
        codes[[at - start for _, at in bases]] = encode("".join(bases.values()))
        like = _first_alike(by_name, name)
        found[name] = Element(name, chroms.pop(), start, codes, like if like != name else "")
    return found


def _first_alike(by_name: dict[str, dict[tuple[str, int], str]], name: str) -> str:
    """Of the elements that share half of an element's places or more, the one of shortest name."""
    places = by_name[name].keys()
    alike = [other for other, theirs in by_name.items() if 2 * len(places & theirs) >= len(places)]
    return min(alike, key=len)
