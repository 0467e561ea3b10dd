"""Targets tables: which tracks there are, where their coverage lies and how it is summarised.

Tab separated with a header, as in the field: `index genome identifier file clip scale sum_stat
description` (Enformer) or `(unnamed) identifier file clip clip_soft scale sum_stat strand_pair
description` (Borzoi). The first column is the integer index. Only `identifier` and `file` are
required; `assay` may be added, and `peak_value` for peak files (see coverage.py); other columns
are kept. A dataset's `tracks.tsv` is the same table with four columns more: covered, mean,
saturated, negative.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spacescale.errors import UserError
from spacescale.genome.text_files import is_missing, split_cells, text_lines, whole_number

_COLUMNS = (
    "identifier", "file", "clip", "clip_soft", "scale", "sum_stat", "strand_pair",
    "description", "assay", "covered", "mean", "saturated", "negative",
)  # fmt: skip
_HISTONE = re.compile(r"^H(1|2A|2B|3|4)")
_ASSAYS = {"DNASE": "dnase_atac", "ATAC": "dnase_atac", "CAGE": "cage", "RNA": "rna"}
# The header, and the cells of each row with its line number.
_Table = tuple[list[str], list[tuple[int, list[str]]]]


@dataclass(frozen=True)
class Track:
    """One row of a targets table.

    index: the first column, as given. file: as given, relative to the table or absolute.
    clip, clip_soft: hard and soft limits of a bin, None for no limit. scale: factor; below 0 it
    also turns the sign of the coverage.
    strand_pair: the row (0-based position in the table, not `index`) of the opposite strand;
    its own row if unstranded. covered: share of target bases with a value; mean: of the stored
    targets over the train windows; saturated, negative: number of bins cut to float16's ±65504,
    and below 0 (None: not counted); all four are known only for tracks of a dataset. extra:
    unknown columns as text.
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
    negative: int | None = None


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
    """Read a targets table in the order of its rows.

    `strand_pair` names an index of the table, or a row if its values are no indices; it must be
    an involution. Quotes around a cell are removed, see `split_cells`. Raises UserError with
    file:line for whatever is wrong.
    """
    return _read_tracks(path, broken_quotes_stay=False)


def read_tracks(path: Path) -> list[Track]:
    """Read the tracks.tsv of a dataset, as `read_targets` does.

    Those written before quotes were understood may hold a lone one at the beginning of a cell.
    """
    return _read_tracks(path, broken_quotes_stay=True)


def _read_tracks(path: Path, broken_quotes_stay: bool) -> list[Track]:
    header, rows = _read_table(path, broken_quotes_stay)
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


def _read_table(path: Path, broken_quotes_stay: bool) -> _Table:
    numbered = []
    for number, line in text_lines(path, "the targets table"):
        cells = split_cells(f"{path}:{number}", line, broken_quotes_stay)
        if any(cell.strip() for cell in cells):
            numbered.append((number, cells))
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
        indices[row] if is_missing(cells[column]) else
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
        if not cells[column].strip():
            raise UserError(f"{place}: {column} is empty")
        if is_missing(cells[column]):
            raise UserError(
                f"{place}: {column} {cells[column].strip()!r} is a word for missing; take another"
            )

    def text(column: str, default: str) -> str:
        return default if is_missing(cells.get(column, "")) else cells[column].strip()

    description = text("description", "")
    return Track(
        index=index,
        identifier=cells["identifier"].strip(),
        file=cells["file"].strip(),
        strand_pair=strand_pair,
        clip=_positive(place, "clip", cells),
        clip_soft=_positive(place, "clip_soft", cells),
        scale=_scale(place, text("scale", "1")),
        sum_stat=text("sum_stat", "mean"),
        description=description,
        assay=text("assay", assay_of(description)),
        covered=_number(place, "covered", text("covered", "nan")),
        mean=_number(place, "mean", text("mean", "nan")),
        saturated=_integer(place, "saturated", text("saturated", "0")),
        negative=_optional_integer(place, "negative", text("negative", "")),
        extra={column: cell for column, cell in cells.items() if column not in _COLUMNS},
    )


def _integer(place: str, column: str, cell: str) -> int:
    number = whole_number(cell)
    if number is None:
        name = column or "the first column"
        raise UserError(f"{place}: {name} must be a whole number, found {cell!r}")
    return number


def _number(place: str, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{place}: {column} must be a number, found {cell!r}") from None


def _positive(place: str, column: str, cells: dict[str, str]) -> float | None:
    if is_missing(cells.get(column, "")):
        return None
    try:
        value = float(cells[column])
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UserError(f"{place}: {column} must be a number above 0, found {cells[column]!r}")
    return value


def refuse_opposite_strands(tracks: Sequence[Track], sums: Sequence[float]) -> None:
    """Refuse strand pairs of which one lies below 0 and the other above.

    Reverse complement swaps the two, so they must be alike. sums: of each track, or means. Raises
    UserError naming both tracks and the cure.
    """
    for track, total in zip(tracks, sums, strict=True):
        other, other_total = tracks[track.strand_pair], sums[track.strand_pair]
        if total < 0 < other_total:
            raise UserError(
                f"track {track.identifier} is below 0 and its strand pair {other.identifier} above "
                "0 (as some tools write the reverse strand), but reverse complement swaps them: "
                f"give {track.identifier} the scale {-track.scale:g} in the targets table, which "
                "turns its sign, or take strand_pair out"
            )


def _scale(place: str, cell: str) -> float:
    value = _number(place, "scale", cell)
    if value == 0 or not math.isfinite(value):
        raise UserError(f"{place}: scale must be a number other than 0, found {cell!r}")
    return value


def _optional_integer(place: str, column: str, cell: str) -> int | None:
    return _integer(place, column, cell) if cell else None


def write_tracks(path: Path, tracks: Sequence[Track]) -> None:
    """Write a table that `read_tracks` reads back equal; strand_pair is written as an index."""
    extra = list(dict.fromkeys(column for track in tracks for column in track.extra))
    with path.open("w", encoding="utf-8", newline="") as file:
        print("index", *_COLUMNS, *map(_quoted, extra), sep="\t", file=file)
        for track in tracks:
            cells = [_cell(track, column, tracks) for column in _COLUMNS]
            others = [track.extra.get(column, "") for column in extra]
            print(track.index, *map(_quoted, cells + others), sep="\t", file=file)


def _quoted(cell: str) -> str:
    """Quote a cell that would not be read back as it is; all others stay as they are."""
    if not cell.startswith('"') and "\t" not in cell:
        return cell
    return '"' + cell.replace('"', '""') + '"'


def _cell(track: Track, column: str, tracks: Sequence[Track]) -> str:
    if column == "strand_pair":
        return str(tracks[track.strand_pair].index)
    value = getattr(track, column)
    return "" if value is None else str(value)
