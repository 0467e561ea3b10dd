"""Read UCSC .2bit genomes. Our own reader: py2bit crashes the process on a truncated file."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from spacescale.errors import UserError

_MAGIC = 0x1A412743
# The letters of each byte: four bases of two bits, T C A G, the first in the highest bits.
_LETTERS = np.frombuffer(b"TCAG", dtype=np.uint8)
_LOWER_CASE = ord("a") - ord("A")
_QUARTETS = _LETTERS[np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3]


def is_two_bit(start: bytes) -> bool:
    """Tell from its first four bytes whether a file is a .2bit, of either byte order."""
    return start in (struct.pack("<I", _MAGIC), struct.pack(">I", _MAGIC))


class TwoBitContig:
    """Where a contig of `length` bp lies in a file, of which only what is asked for is read."""

    def __init__(self, path: Path, file: IO[bytes], order: str, offset: int):
        """Raises struct.error or ValueError where the file ends before the contig does."""
        self.path = path
        size = file.seek(0, 2)
        file.seek(offset)
        self.length, num_gaps = struct.unpack(order + "II", file.read(8))
        if file.tell() + 8 * num_gaps > size:  # before as much memory is asked for
            raise ValueError(f"it ends within {num_gaps:,} stretches of N")
        gaps = np.frombuffer(file.read(8 * num_gaps), order + "u4", 2 * num_gaps)
        self.gap_starts, lengths = gaps.astype(np.int64).reshape(2, num_gaps)
        self.gap_ends = self.gap_starts + lengths
        if num_gaps and self.gap_ends.max() > self.length:
            raise ValueError(
                f"a stretch of N ends at {self.gap_ends.max():,} of {self.length:,} bases"
            )
        self._order = order
        (self._num_masked,) = struct.unpack(order + "I", file.read(4))
        self._masks_at = file.tell()
        self.packed_at = self._masks_at + 8 * self._num_masked + 4  # behind a reserved word
        if size < self.packed_at + -(-self.length // 4):
            raise ValueError("it ends within a contig")

    def letters(self, start: int, end: int) -> bytes:
        """Letters in upper case of the bases from `start` to `end`, 0-based half-open."""
        return self._letters(start, end).tobytes()

    def _letters(self, start: int, end: int) -> np.ndarray:
        first = start // 4
        with self.path.open("rb") as file:
            file.seek(self.packed_at + first)
            packed = np.frombuffer(file.read(-(-end // 4) - first), np.uint8)
        letters = _QUARTETS[packed].reshape(-1)[start - 4 * first : end - 4 * first]
        here = (self.gap_starts < end) & (self.gap_ends > start)
        for gap, gap_end in zip(self.gap_starts[here], self.gap_ends[here], strict=True):
            letters[max(gap - start, 0) : gap_end - start] = ord("N")
        return letters

    def soft_masked_letters(self) -> bytes:
        """All letters, those of stretches that the file masks in lower case.

        Raises ValueError where such a stretch reaches past the end of the contig.
        """
        with self.path.open("rb") as file:
            file.seek(self._masks_at)
            masks = np.frombuffer(file.read(8 * self._num_masked), self._order + "u4")
        starts, lengths = masks.astype(np.int64).reshape(2, self._num_masked)
        ends = starts + lengths
        if self._num_masked and ends.max() > self.length:
            raise ValueError(f"a masked stretch ends at {ends.max():,} of {self.length:,} bases")
        letters = self._letters(0, self.length)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            letters[start:end] |= _LOWER_CASE
        return letters.tobytes()


def two_bit_contigs(path: Path) -> Iterator[tuple[str, TwoBitContig]]:
    """Yield (contig name, contig) in the order of the file's index.

    Raises UserError naming the file when it ends before its contigs do.
    """
    try:
        with path.open("rb") as file:
            order = "<" if file.read(4) == struct.pack("<I", _MAGIC) else ">"
            for name, offset in _index(file, order):
                yield name, TwoBitContig(path, file, order, offset)
    except (struct.error, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error


def two_bit_records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (contig name, letters), masked ones in lower case, in the order and with the errors of
    the above.
    """
    for name, contig in two_bit_contigs(path):
        try:
            letters = contig.soft_masked_letters()
        except ValueError as error:
            raise _damaged(path, error) from error
        yield name, letters


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is a damaged or truncated 2bit file ({error})")


def _index(file: IO[bytes], order: str) -> list[tuple[str, int]]:
    version, count, _ = struct.unpack(order + "III", file.read(12))
    if version > 1:
        raise ValueError(f"version {version}")
    offset_type = order + ("Q" if version else "I")
    found = []
    for _ in range(count):
        (size,) = struct.unpack("B", file.read(1))
        name = file.read(size).decode()
        found.append((name, *struct.unpack(offset_type, file.read(struct.calcsize(offset_type)))))
    return found
