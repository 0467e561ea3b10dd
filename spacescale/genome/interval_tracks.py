"""Coverage from text: bedGraph, and peaks from BED, narrowPeak and broadPeak; plain or gzip."""

import math
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.interval_values import IntervalValues, highest, union
from spacescale.genome.text_files import numbered_lines, split_cells

# Positions are kept in 32 bits, as in BigWig.
_MAX_POSITION, _MAX_DIGITS = 2**32 - 1, 10
_WHOLE_FLOAT = re.compile(rb"[0-9]{1,10}(\.[0-9]{0,15})?([eE][+]?[0-9]{1,2})?")
_SIGNAL_COLUMN = 6  # signalValue of narrowPeak and broadPeak


class IntervalTrack:
    """Coverage held in memory, 16 to 28 bytes an interval; a context manager like BigWig.

    contigs: {name: furthest start of an interval, bp}; lines: {name: the line that says so};
    by_contig: {name: intervals}, none of a file that lists no interval.
    background: value of bases in no interval, also on contigs that the file does not name.
    """

    lengths_known = False

    def __init__(
        self,
        path: Path,
        rows: Mapping[str, "_Rows"],
        by_contig: dict[str, IntervalValues],
        background: float,
    ):
        self.path = path
        self.background = background
        furthest = {name: int(np.argmax(np.array(found.starts))) for name, found in rows.items()}
        self.contigs = {name: rows[name].starts[place] for name, place in furthest.items()}
        self.lines = {name: rows[name].lines[place] for name, place in furthest.items()}
        self.by_contig = by_contig
        self._ends = {name: np.array(found.ends) for name, found in rows.items()}

    def __enter__(self) -> "IntervalTrack":
        return self

    def __exit__(self, *_) -> None:
        self.by_contig = {}

    def read_windows(self, chrom: str, starts: np.ndarray, width: int) -> np.ndarray:
        """Return float32 [windows, width]; starts: int64 [windows], 0-based, in any order."""
        return self.by_contig[chrom].per_window(starts, width, self.background)

    def past_end(self, lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return {contig: how far past its end each of these intervals ends, in bp}.

        lengths: {name in the file: bp of that contig}.
        """
        past = {
            name: self._ends[name].astype(np.int64) - length
            for name, length in lengths.items()
            if name in self._ends
        }
        return {name: by[by > 0] for name, by in past.items()}


def read_bedgraph(path: Path) -> IntervalTrack:
    """Read chrom, start, end, value; the order of lines does not matter.

    What no line lists, or lists as NaN, is missing; a line of no length lists nothing. Raises
    UserError with file:line for anything but four columns, wrong or overlapping coordinates and
    infinite values.
    """

    def value(columns: list[bytes]) -> float:
        if len(columns) != 4:
            raise ValueError(f"a bedGraph has 4 columns, found {len(columns)}")
        return _number(columns[3])

    by_contig = {}
    rows = _read_rows(path, "the bedGraph file", value)
    for name, contig in rows.items():
        intervals, lines = contig.sorted()
        overlap = np.flatnonzero(intervals.starts[1:] < intervals.ends[:-1])
        if overlap.size:
            one, other = sorted(lines[overlap[0] : overlap[0] + 2].tolist())
            start, end = intervals.starts[overlap[0] + 1], intervals.ends[overlap[0]]
            raise UserError(
                f"{path}:{other}: {name} has a value twice at {start}-{end}, here and in line {one}"
            )
        by_contig[name] = intervals
    return IntervalTrack(path, rows, by_contig, np.nan)


def read_peaks(path: Path, value: str = "1") -> IntervalTrack:
    """Read peaks from BED (at least 3 columns), narrowPeak or broadPeak; any order of lines.

    Every base is covered: 0 outside the peaks, and inside 1, or with value "signal" the peak's
    signalValue (column 7), the highest where peaks overlap. Features of no length, such as
    insertions, hold no base. Raises UserError with file:line.
    """

    def presence(columns: list[bytes]) -> float:
        return 1.0

    def signal(columns: list[bytes]) -> float:
        if len(columns) <= _SIGNAL_COLUMN:
            raise ValueError(
                "no signalValue, the 7th column of narrowPeak and broadPeak; found "
                f"{len(columns)} columns"
            )
        return _number(columns[_SIGNAL_COLUMN], missing_allowed=False)

    wanted = signal if value == "signal" else presence
    rows = _read_rows(path, "the BED file", wanted, tabs_count=True)
    merge = highest if value == "signal" else union
    by_contig = {name: merge(contig.sorted()[0]) for name, contig in rows.items()}
    return IntervalTrack(path, rows, by_contig, 0.0)


@dataclass
class _Rows:
    """The lines of one contig in compact arrays: a human bedGraph has tens of millions."""

    starts: array = field(default_factory=lambda: array("I"))
    ends: array = field(default_factory=lambda: array("I"))
    values: array = field(default_factory=lambda: array("f"))
    lines: array = field(default_factory=lambda: array("I"))

    def sorted(self) -> tuple[IntervalValues, np.ndarray]:
        """Return the intervals by start, and the line of each."""
        starts, ends = (np.array(part, dtype=np.int64) for part in (self.starts, self.ends))
        order = np.argsort(starts, kind="stable")
        values, lines = np.array(self.values, dtype=np.float32), np.array(self.lines)
        return IntervalValues(starts[order], ends[order], values[order]), lines[order]


def _read_rows(
    path: Path, what: str, value: Callable[[list[bytes]], float], tabs_count: bool = False
) -> dict[str, _Rows]:
    """Return the lines by contig; `value` takes the columns of one, and raises ValueError.

    tabs_count: as `_columns` has it.
    """
    by_name: defaultdict[bytes, _Rows] = defaultdict(_Rows)
    for number, line in numbered_lines(path, what):
        columns = _columns(path, number, line, tabs_count)
        try:
            start, end = _span(columns)
            found = value(columns)
            if start == end:
                continue
            rows = by_name[columns[0]]
            rows.starts.append(start)
            rows.ends.append(end)
            rows.values.append(found)
            rows.lines.append(number)
            if math.isinf(rows.values[-1]):
                raise ValueError("the value is beyond what 32 bits can hold")
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from error
    return {_decoded(f"{path}:{r.lines[0]}", name): r for name, r in by_name.items()}


def _columns(path: Path, number: int, line: bytes, tabs_count: bool) -> list[bytes]:
    """Split a line at blanks and tabs, quotes around a cell being removed.

    tabs_count: a line with two tabs or more is split at these alone, since the name of a BED's
    feature may be empty or hold blanks.
    """
    by_tabs = tabs_count and line.count(b"\t") >= 2
    if b'"' in line:
        place, delimiter = f"{path}:{number}", "\t" if b"\t" in line else " "
        text = line.decode("latin-1")  # any bytes pass: only names are text, and are decoded later
        cells = split_cells(place, text, broken_quotes_stay=True, delimiter=delimiter)
        columns = [cell.encode("latin-1").strip() for cell in cells]
    elif by_tabs:
        columns = [cell.strip() for cell in line.split(b"\t")]
    else:
        return line.split()
    return columns if by_tabs else [cell for cell in columns if cell]


def _decoded(place: str, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        shown = name[:30].decode("latin-1")
        raise UserError(
            f"{place}: the contig name is not UTF-8 (in Latin-1 it is {shown!r}); save the file as "
            "UTF-8"
        ) from error


def _span(columns: list[bytes]) -> tuple[int, int]:
    """Return start and end in bp; ValueError says what is wrong with them."""
    if len(columns) < 3:
        raise ValueError(f"expected chrom, start and end, found {len(columns)} columns")
    start, end = _position(columns[1]), _position(columns[2])
    if start > end:
        raise ValueError(f"start {start} is after end {end}")
    return start, end


def _position(text: bytes) -> int:
    """Read a whole number; R writes 100000 as 1e+05, and pandas 5 as 5.0."""
    if text.isdigit():
        position = int(text) if len(text) <= _MAX_DIGITS else _MAX_POSITION + 1
    elif _WHOLE_FLOAT.fullmatch(text) and float(text).is_integer():
        position = int(float(text))
    else:
        raise ValueError(f"start and end must be whole numbers from 0 on, found {_quoted(text)}")
    if position > _MAX_POSITION:
        raise ValueError(f"{_quoted(text)} is beyond any contig")
    return position


def _number(text: bytes, missing_allowed: bool = True) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value) or b"_" in text or (math.isnan(value) and not missing_allowed):
        raise ValueError(f"the value must be a finite number, found {_quoted(text)}")
    return value


def _quoted(text: bytes) -> str:
    return repr(text[:30].decode("utf-8", errors="replace"))
