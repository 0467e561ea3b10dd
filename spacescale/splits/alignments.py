"""Homology between two genomes as files: UCSC chains and nets, and tables of region pairs.

All come out as `Aligned`, in forward coordinates of both genomes, 0-based half-open, in bp. Files
are streamed, plain or gzip; the content tells the format.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.text_files import decoded, numbered_lines, split_cells, whole_number

_CHAIN_COLUMNS = (12, 13)  # the id may lack
_NET_COLUMNS = 7
_PAIR_COLUMNS = 6
# Between two gaps a net may hide small ones, so the sides differ a little in length. Cut this
# short, they are read as gapless.
_PIECE_BP = 1_000
_MAX_DIGITS = 15

_Line = tuple[int, bytes]


@dataclass(frozen=True)
class Side:
    """A contig of one of the two genomes as a file calls it; length is None where it tells none."""

    name: str
    length: int | None


@dataclass(frozen=True)
class Aligned:
    """Homologous pieces between one contig of the first genome and one of the second.

    place: file:line. starts, sizes, other_starts, other_sizes: int64 [pieces]. reverse: the second
    genome's pieces run backwards. gapless: base i of a piece corresponds to base i (from the end,
    if reverse) of the other, which is of the same size; else only the pieces as wholes correspond.
    """

    place: str
    first: Side
    second: Side
    starts: np.ndarray
    sizes: np.ndarray
    other_starts: np.ndarray
    other_sizes: np.ndarray
    reverse: bool = False
    gapless: bool = True


def read_alignments(path: Path) -> Iterator[Aligned]:
    """Yield what a chain, a net or a pair table holds, in the order of the file.

    Chains and nets: the first genome is the target, the second the query. Pair tables have the
    columns chrom, start, end of the first genome and chrom, start, end of the second, separated by
    tabs; further columns are ignored. Raises UserError with file:line for whatever is wrong.
    """
    lines = numbered_lines(path, "the homology file")
    first = next(lines, None)
    if first is None:
        raise UserError(f"{path} lists no homology")
    return _reader(first[1])(path, chain([first], lines))


def _reader(line: bytes) -> Callable[[Path, Iterator[_Line]], Iterator[Aligned]]:
    word = line.split()[0]
    return {b"chain": _read_chains, b"net": _read_nets}.get(word, _read_pairs)


def _as_text(word: bytes) -> str:
    return word.decode("utf-8", errors="replace")


def _whole_numbers(place: str, words: list[bytes]) -> list[int]:
    for word in words:
        if not word.isdigit() or len(word) > _MAX_DIGITS:
            raise UserError(f"{place}: expected a whole number, found {_as_text(word)!r}")
    return [int(word) for word in words]


def _position(place: str, cell: str) -> int:
    """Return the whole number of a cell, also as other programs than UCSC's write it."""
    number = whole_number(cell)
    if number is None or not 0 <= number < 10**_MAX_DIGITS:
        raise UserError(f"{place}: expected a whole number, found {cell!r}")
    return number


def _is_reverse(place: str, word: bytes) -> bool:
    if word not in (b"+", b"-"):
        raise UserError(f"{place}: a strand is + or -, found {_as_text(word)!r}")
    return word == b"-"


def _refuse_beyond(place: str, side: Side, start: int, end: int) -> None:
    if start >= end:
        raise UserError(f"{place}: start {start} is not before end {end}")
    if side.length is not None and end > side.length:
        raise UserError(f"{place}: {start}-{end} lies beyond {side.name} of {side.length} bp")


@dataclass(frozen=True)
class _ChainHeader:
    """other_start and other_end are on the strand of the chain."""

    place: str
    first: Side
    second: Side
    start: int
    end: int
    other_length: int
    other_start: int
    other_end: int
    reverse: bool


def _read_chains(path: Path, lines: Iterator[_Line]) -> Iterator[Aligned]:
    header, blocks = None, []
    for number, line in lines:
        if not line.startswith(b"chain"):
            blocks.append((number, line))
            continue
        if header:
            yield _chain(path, header, blocks)
        header, blocks = _chain_header(f"{path}:{number}", line.split()), []
    if header:
        yield _chain(path, header, blocks)


def _chain_header(place: str, words: list[bytes]) -> _ChainHeader:
    if len(words) not in _CHAIN_COLUMNS:
        raise UserError(
            f"{place}: expected chain score tName tSize tStrand tStart tEnd qName qSize qStrand "
            f"qStart qEnd id, found {len(words)} columns"
        )
    if _is_reverse(place, words[4]):
        raise UserError(f"{place}: the target strand of a chain is +, found -")
    length, start, end = _whole_numbers(place, [words[3], words[5], words[6]])
    other_length, other_start, other_end = _whole_numbers(place, [words[8], words[10], words[11]])
    first, second = Side(_as_text(words[2]), length), Side(_as_text(words[7]), other_length)
    _refuse_beyond(place, first, start, end)
    _refuse_beyond(place, second, other_start, other_end)
    reverse = _is_reverse(place, words[9])
    return _ChainHeader(
        place, first, second, start, end, other_length, other_start, other_end, reverse
    )


def _chain(path: Path, header: _ChainHeader, lines: list[_Line]) -> Aligned:
    """Turn the lines `size dt dq`, of which the last is only `size`, into pieces."""
    words = b" ".join(line for _, line in lines).split()
    if len(words) != 3 * len(lines) - 2 or not b"".join(words).isdigit():
        _refuse_bad_chain(path, header, lines)
    try:
        table = np.append(np.array(words, dtype=np.int64), [0, 0]).reshape(-1, 3)
    except OverflowError:
        _refuse_bad_chain(path, header, lines)
    sizes, steps, other_steps = table[:, 0], table[:, 0] + table[:, 1], table[:, 0] + table[:, 2]
    starts = header.start + np.cumsum(steps) - steps
    others = header.other_start + np.cumsum(other_steps) - other_steps
    end, other_end = int(starts[-1] + sizes[-1]), int(others[-1] + sizes[-1])
    if (end, other_end) != (header.end, header.other_end):
        raise UserError(
            f"{header.place}: the blocks of this chain end at {end} and {other_end}, its header "
            f"says {header.end} and {header.other_end}: truncated?"
        )
    forward = header.other_length - others - sizes if header.reverse else others
    return Aligned(
        header.place, header.first, header.second, starts, sizes, forward, sizes, header.reverse
    )


def _refuse_bad_chain(path: Path, header: _ChainHeader, lines: list[_Line]) -> NoReturn:
    """Raise UserError for the first line of a chain that is not as it must be."""
    for row, (number, line) in enumerate(lines, start=1):
        words = line.split()
        _whole_numbers(f"{path}:{number}", words)
        expected = 1 if row == len(lines) else 3
        if len(words) != expected:
            raise UserError(
                f"{path}:{number}: a block of a chain has {expected} numbers here, found "
                f"{len(words)}: {_as_text(line)!r}"
            )
    raise UserError(f"{header.place}: a chain without a block")


@dataclass
class _Fill:
    """A fill of a net that is being read, up to where its gaps have been reached."""

    place: str
    depth: int
    second: Side
    reverse: bool
    start: int
    end: int
    other_start: int
    other_end: int

    def take_piece_before_gap(
        self, start: int, end: int, other_start: int, other_end: int
    ) -> tuple[int, int, int, int]:
        """Return the piece before a gap in the form of these arguments, and go on after the gap."""
        before = self.start
        self.start = end
        if self.reverse:
            piece = before, start, other_end, self.other_end
            self.other_end = other_start
        else:
            piece = before, start, self.other_start, other_start
            self.other_start = other_end
        return piece


def _read_nets(path: Path, lines: Iterator[_Line]) -> Iterator[Aligned]:
    first = Side("", None)
    open_fills: list[_Fill] = []
    for number, line in lines:
        place, words = f"{path}:{number}", line.split()
        depth = len(line) - len(line.lstrip())
        while open_fills and open_fills[-1].depth >= depth:
            yield from _last_piece(first, open_fills.pop())
        if words[0] == b"net":
            first = _net_contig(place, words)
            continue
        kind, start, size, other, other_start, other_size, reverse = _net_row(place, words)
        _refuse_beyond(place, first, start, start + size)
        ends = start, start + size, other_start, other_start + other_size
        if kind == b"gap" and open_fills:
            fill = open_fills[-1]
            yield from _gapless_pieces(place, first, fill, fill.take_piece_before_gap(*ends))
        elif kind == b"fill":
            open_fills.append(_Fill(place, depth, Side(other, None), reverse, *ends))
    while open_fills:
        yield from _last_piece(first, open_fills.pop())


def _net_contig(place: str, words: list[bytes]) -> Side:
    if len(words) != 3:
        raise UserError(f"{place}: expected net, contig name, contig length")
    return Side(_as_text(words[1]), _whole_numbers(place, words[2:])[0])


def _net_row(place: str, words: list[bytes]) -> tuple[bytes, int, int, str, int, int, bool]:
    if words[0] not in (b"fill", b"gap") or len(words) < _NET_COLUMNS:
        raise UserError(
            f"{place}: expected fill or gap tStart tSize qName qStrand qStart qSize, found "
            f"{_as_text(b' '.join(words[:_NET_COLUMNS]))!r}"
        )
    start, size, other_start, other_size = _whole_numbers(
        place, [words[1], words[2], words[5], words[6]]
    )
    reverse = _is_reverse(place, words[4])
    return words[0], start, size, _as_text(words[3]), other_start, other_size, reverse


def _last_piece(first: Side, fill: _Fill) -> Iterator[Aligned]:
    piece = (fill.start, fill.end, fill.other_start, fill.other_end)
    yield from _gapless_pieces(fill.place, first, fill, piece)


def _gapless_pieces(
    place: str, first: Side, fill: _Fill, piece: tuple[int, int, int, int]
) -> Iterator[Aligned]:
    """Yield a piece whose sides may differ in length as evenly stretched gapless ones."""
    start, end, other_start, other_end = piece
    if start >= end or other_start >= other_end:
        return
    count = 1 + (max(end - start, other_end - other_start) - 1) // _PIECE_BP
    cuts = start + np.arange(count + 1, dtype=np.int64) * (end - start) // count
    others = other_start + np.arange(count + 1, dtype=np.int64) * (other_end - other_start) // count
    if fill.reverse:
        others = others[::-1]
    lows = np.minimum(others[:-1], others[1:])
    sizes = np.minimum(np.diff(cuts), np.abs(np.diff(others)))
    yield Aligned(place, first, fill.second, cuts[:-1], sizes, lows, sizes, fill.reverse)


def _read_pairs(path: Path, lines: Iterator[_Line]) -> Iterator[Aligned]:
    for number, line in lines:
        place = f"{path}:{number}"
        columns = split_cells(place, decoded(place, line))
        if len(columns) < _PAIR_COLUMNS:
            raise UserError(
                f"{place}: expected chrom, start, end, other chrom, start, end separated by tabs, "
                f"or a chain or net file; found {_as_text(line[:80])!r}"
            )
        cells = columns[1:3] + columns[4:6]
        start, end, other_start, other_end = [_position(place, cell) for cell in cells]
        first, second = Side(columns[0], None), Side(columns[3], None)
        _refuse_beyond(place, first, start, end)
        _refuse_beyond(place, second, other_start, other_end)
        yield Aligned(
            place,
            first,
            second,
            np.array([start]),
            np.array([end - start]),
            np.array([other_start]),
            np.array([other_end - other_start]),
            gapless=False,
        )
