"""Targets tables: which tracks there are, where their coverage lies and how it is summarised.

Tab separated with a header, as in the field: `index genome identifier file clip scale sum_stat
description` (Enformer) or `(unnamed) identifier file clip clip_soft scale sum_stat strand_pair
description` (Borzoi). The first column is the integer index. Only `identifier` and `file` are
required; `assay` may be added, and `peak_value` for peak files (see coverage.py); other columns
are kept. A dataset's `tracks.tsv` is the same table with three columns more: covered, mean,
saturated.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spacescale.errors import UserError

_COLUMNS = (
    "identifier", "file", "clip", "clip_soft", "scale", "sum_stat", "strand_pair",
    "description", "assay", "covered", "mean", "saturated",
)  # fmt: skip
_MISSING = {"", "na", "nan", "none"}
_HISTONE = re.compile(r"^H(1|2A|2B|3|4)")
_ASSAYS = {"DNASE": "dnase_atac", "ATAC": "dnase_atac", "CAGE": "cage", "RNA": "rna"}


@dataclass(frozen=True)
class Track:
    """One row of a targets table.

    index: the first column, as given. file: as given, relative to the table or absolute.
    clip, clip_soft: hard and soft limits of a bin, None for no limit. scale: factor.
    strand_pair: the row (0-based position in the table, not `index`) of the opposite strand;
    its own row if unstranded. covered: share of target bases with a value; mean: of the stored
    targets over the train windows; saturated: number of bins cut to float16's ±65504; all three
    are known only for tracks of a dataset (NaN, NaN, 0 before). extra: unknown columns as text.
    """

    index: int
    identifier: str
    file: str
    strand_pair: int
    clip: float | None = None
    clip_soft: float | None = None
    scale: float = 1.0
    sum_stat: str = "mean"
    description: str = ""
    assay: str = "other"
    covered: float = math.nan
    mean: float = math.nan
    saturated: int = 0
    extra: dict[str, str] = field(default_factory=dict)


def assay_of(description: str) -> str:
    """Return the assay slug of a description `ASSAY:text`, 'other' if it has no such prefix.

    DNASE, ATAC: dnase_atac. CAGE: cage. RNA: rna. CHIP: histone_chip when the text begins with a
    histone name (H1, H2A, H2B, H3, H4), else tf_chip. Any other prefix: itself, in lower case.
    """
    prefix, colon, text = description.partition(":")
    prefix = prefix.strip().upper()
    if not colon or not prefix:
        return "other"
    if prefix == "CHIP":
        return "histone_chip" if _HISTONE.match(text.strip()) else "tf_chip"
    return _ASSAYS.get(prefix) or re.sub(r"[^a-z0-9]+", "_", prefix.lower()).strip("_") or "other"


def read_targets(path: Path) -> list[Track]:
    """Read a targets table, or the tracks.tsv of a dataset, in the order of its rows.

    `strand_pair` names an index of the table, or a row if its values are no indices; it must be
    an involution. Raises UserError with file:line for whatever is wrong.
    """
    header, rows = _read_table(path)
    if not rows:
        raise UserError(f"{path} lists no track")
    indices = [_integer(f"{path}:{number}", header[0], cells[0]) for number, cells in rows]
    if len(set(indices)) < len(indices):
        raise UserError(f"{path}: the first column, the index, repeats a value")
    pairs = _strand_pairs(path, header, rows, indices)
    return [
        _track(f"{path}:{number}", dict(zip(header[1:], cells[1:], strict=True)), index, pair)
        for (number, cells), index, pair in zip(rows, indices, pairs, strict=True)
    ]


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the targets table {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    if "\0" in text:
        raise UserError(f"{path} is not a text file; save a table as tab separated text")
    lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        numbered = [(n, cells) for n, cells in enumerate(lines, start=1) if any(cells)]
    except csv.Error as error:
        raise UserError(f"{path}:{lines.line_num}: not a line of a table ({error})") from error
    if not numbered:
        raise UserError(f"{path} is empty")
    header = [column.strip() for column in numbered[0][1]]
    if twice := [name for name in header[1:] if name and header[1:].count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice")
    for column in ("identifier", "file"):
        if column not in header[1:]:
            raise UserError(
                f"{path}: no column {column!r} in the header {header}; "
                "a targets table is tab separated, its first column the index"
            )
    for number, cells in numbered[1:]:
        if len(cells) != len(header):
            raise UserError(f"{path}:{number}: {len(cells)} columns, the header has {len(header)}")
    return header, numbered[1:]


def _strand_pairs(
    path: Path, header: list[str], rows: list[tuple[int, list[str]]], indices: list[int]
) -> list[int]:
    own = list(range(len(rows)))
    if "strand_pair" not in header:
        return own
    column = header.index("strand_pair")
    named = [
        indices[row] if _is_missing(cells[column]) else
        _integer(f"{path}:{number}", "strand_pair", cells[column])
        for row, (number, cells) in enumerate(rows)
    ]  # fmt: skip
    row_of = {index: row for row, index in enumerate(indices)}
    if not set(named) <= row_of.keys() and set(named) <= set(own):
        row_of = {row: row for row in own}
    for (number, _), name in zip(rows, named, strict=True):
        if name not in row_of:
            raise UserError(f"{path}:{number}: strand_pair {name} is no index of this table")
    pairs = [row_of[name] for name in named]
    for row, (number, _) in enumerate(rows):
        if pairs[pairs[row]] != row:
            raise UserError(
                f"{path}:{number}: strand_pair {named[row]} does not name this track back "
                f"(it names {named[pairs[row]]})"
            )
    return pairs


def _track(place: str, cells: dict[str, str], index: int, strand_pair: int) -> Track:
    for column in ("identifier", "file"):
        if _is_missing(cells[column]):
            raise UserError(f"{place}: {column} is empty")

    def text(column: str, default: str) -> str:
        return default if _is_missing(cells.get(column, "")) else cells[column].strip()

    description = text("description", "")
    return Track(
        index=index,
        identifier=cells["identifier"].strip(),
        file=cells["file"].strip(),
        strand_pair=strand_pair,
        clip=_positive(place, "clip", cells),
        clip_soft=_positive(place, "clip_soft", cells),
        scale=_positive(place, "scale", cells) or 1.0,
        sum_stat=text("sum_stat", "mean"),
        description=description,
        assay=text("assay", assay_of(description)),
        covered=_number(place, "covered", text("covered", "nan")),
        mean=_number(place, "mean", text("mean", "nan")),
        saturated=_integer(place, "saturated", text("saturated", "0")),
        extra={column: cell for column, cell in cells.items() if column not in _COLUMNS},
    )


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING


def _integer(place: str, column: str, cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        name = column or "the first column"
        raise UserError(f"{place}: {name} must be a whole number, found {cell!r}") from None


def _number(place: str, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{place}: {column} must be a number, found {cell!r}") from None


def _positive(place: str, column: str, cells: dict[str, str]) -> float | None:
    if _is_missing(cells.get(column, "")):
        return None
    try:
        value = float(cells[column])
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UserError(f"{place}: {column} must be a number above 0, found {cells[column]!r}")
    return value


def write_tracks(path: Path, tracks: Sequence[Track]) -> None:
    """Write a table that `read_targets` reads back equal; strand_pair is written as an index."""
    extra = list(dict.fromkeys(column for track in tracks for column in track.extra))
    with path.open("w", encoding="utf-8", newline="") as file:
        print("index", *_COLUMNS, *extra, sep="\t", file=file)
        for track in tracks:
            cells = [_cell(track, column, tracks) for column in _COLUMNS]
            others = [track.extra.get(column, "") for column in extra]
            print(track.index, *cells, *others, sep="\t", file=file)


def _cell(track: Track, column: str, tracks: Sequence[Track]) -> str:
    if column == "strand_pair":
        return str(tracks[track.strand_pair].index)
    value = getattr(track, column)
    return "" if value is None else str(value)
