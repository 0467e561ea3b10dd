"""Lines of the text files that users give: BED, bedGraph, tables and lists; plain or gzip.

UTF-8, or UTF-16 and UTF-32 where a byte order mark says so, as Excel's "Unicode Text" has it. A
line ends with LF or CR LF; where a file begins with lines that end with CR, as old Macs and some
spreadsheets write them, CR ends all.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path

from spacescale.errors import UserError
from spacescale.genome.file_kinds import refuse_other_kinds

_GZIP = b"\x1f\x8b"
# Characters. Tables of tasks hold sequences; a longer line is a chromosome, or of a binary file.
LONGEST_LINE = 1 << 24
_LONGEST_CELL = 1 << 17  # of tables that hold none
# The mark of UTF-32 begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MISSING = {"", "na", "nan", "none"}
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?([eE]\+?[0-9]{1,2})?")


def is_gzip(path: Path) -> bool:
    """Tell from its first two bytes whether a file is compressed by gzip or bgzip."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def numbered_lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line in UTF-8) of the lines that name an interval.

    Left out are blank lines, '#' comments and the track and browser lines of UCSC; line ends
    and a byte order mark are removed. Raises UserError, calling the file `what`, when it is
    missing, no text or damaged.
    """
    for number, line in _lines(path, what):
        if line.strip() and not _names_no_interval(line):
            yield number, line


def text_lines(path: Path, what: str, kinds: Collection[str] = ()) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of all lines.

    kinds: of file_kinds.py, those that it may be. UserError as `numbered_lines` and `decoded`.
    """
    for number, line in _lines(path, what, kinds):
        yield number, decoded(f"{path}:{number}", line)


def decoded(place: str, line: bytes) -> str:
    """Return a line as text; UserError names place and byte where it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start : error.start + 1]
        meant = byte.decode("cp1252", errors="replace")
        raise UserError(
            f"{place}: not UTF-8 (byte 0x{byte.hex()}, {meant!r} if this is Latin-1 or cp1252); "
            "save the file as UTF-8"
        ) from error


def split_cells(
    place: str,
    line: str,
    broken_quotes_stay: bool = False,
    delimiter: str = "\t",
    longest: int = _LONGEST_CELL,
) -> list[str]:
    """Split a line of a table at its tabs; quotes around a cell, as Excel, R and pandas add, go.

    A quote inside a cell that begins with none is itself (5" of rain). A cell in quotes has them
    doubled inside. Raises UserError where a cell begins with a quote and does not end with one
    in the same line, or is longer than `longest`; broken_quotes_stay: such a line is split at its
    tabs, its quotes being text.
    """
    csv.field_size_limit(longest)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        if broken_quotes_stay:
            return line.split(delimiter)
        if '"' not in line:
            raise UserError(f"{place}: not a line of a table ({error})") from error
        raise UserError(
            f'{place}: a cell begins with a quote (") that does not close at the end of the cell; '
            "remove it, or quote the whole cell and double the quotes inside. A cell has no line "
            "breaks"
        ) from error


def is_missing(cell: str) -> bool:
    """Tell whether a cell is blank, or a word for a missing value."""
    return cell.strip().lower() in _MISSING


def whole_number(text: str) -> int | None:
    """Return the value of 3, of 3.0 as pandas has it, or 3e+05 as R; None if it is not whole."""
    if not _WHOLE.fullmatch(text.strip()):
        return None
    value = Decimal(text.strip())
    return int(value) if value == value.to_integral_value() else None


def _names_no_interval(line: bytes) -> bool:
    if not line.startswith((b"#", b"track", b"browser")):
        return False
    # A contig may be called track1.
    return line.startswith(b"#") or line.split(maxsplit=1)[0] in (b"track", b"browser")


def _lines(path: Path, what: str, kinds: Collection[str] = ()) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line in UTF-8 without its end)."""
    try:
        with gzip.open(path, "rb") if is_gzip(path) else path.open("rb") as file:
            refuse_other_kinds(path, what, {"gzip", *kinds}, inside=kinds)
            for number, content in enumerate(_as_utf8(file), start=1):
                line = content.rstrip(b"\r\n")
                if b"\0" in line:
                    raise UserError(
                        f"{path}:{number}: this is no text file, expected {what}; if it is UTF-16, "
                        "save it as UTF-8"
                    )
                if len(line) > LONGEST_LINE:
                    raise UserError(
                        f"{path}:{number}: a line of more than {LONGEST_LINE:,} characters, "
                        f"expected {what}"
                    )
                if b"\r" in line:
                    raise UserError(
                        f"{path}:{number}: a carriage return in the line: line ends of several "
                        "kinds? Save the file with one kind"
                    )
                yield number, line
    except UnicodeDecodeError as error:
        raise UserError(f"{path} begins as {error.encoding} and is not ({error.reason})") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a damaged or truncated gzip file ({error})") from error
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from error


def _as_utf8(file: gzip.GzipFile | io.BufferedReader) -> Iterator[bytes]:
    """Yield lines; one longer than LONGEST_LINE in pieces, of which the first is too long."""
    start = file.peek(io.DEFAULT_BUFFER_SIZE)
    encoding = next((name for mark, name in _ENCODINGS.items() if start.startswith(mark)), None)
    if encoding is None and re.search(rb"\r(?!\n|$)", start):
        encoding = "latin-1"  # any bytes pass through it unchanged
    if encoding is None:
        line = file.readline(LONGEST_LINE + 1).removeprefix(codecs.BOM_UTF8)
        while line:
            yield line
            line = file.readline(LONGEST_LINE + 1)
        return
    text = io.TextIOWrapper(file, encoding=encoding)  # pyright: ignore[reportArgumentType]
    back = "latin-1" if encoding == "latin-1" else "utf-8"
    for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE + 1), "")):
        content = line.encode(back)
        yield content if number else content.removeprefix(codecs.BOM_UTF8)
