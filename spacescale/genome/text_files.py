"""Lines of the text files of the field: BED, bedGraph, narrowPeak; plain or gzip."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from spacescale.errors import UserError

_GZIP = b"\x1f\x8b"
# A longer line is no line of a table: a binary file or a whole sequence.
_LONGEST_LINE = 1 << 20


def is_gzip(path: Path) -> bool:
    """Tell from its first two bytes whether a file is compressed by gzip or bgzip."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _names_no_interval(line: bytes) -> bool:
    if not line.startswith((b"#", b"track", b"browser")):
        return False
    # A contig may be called track1.
    return line.startswith(b"#") or line.split(maxsplit=1)[0] in (b"track", b"browser")


def numbered_lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) of the lines that name an interval.

    Left out are blank lines, '#' comments and the track and browser lines of UCSC; line ends
    and a byte order mark are removed. Raises UserError, calling the file `what`, when it is
    missing, no text or damaged.
    """
    try:
        with gzip.open(path, "rb") if is_gzip(path) else path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE or b"\0" in line:
                    raise UserError(f"{path}:{number}: this is no text file, expected {what}")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                line = line.rstrip(b"\r\n")
                if line.strip() and not _names_no_interval(line):
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a damaged or truncated gzip file ({error})") from error
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from error
