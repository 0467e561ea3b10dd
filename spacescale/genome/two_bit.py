"""Read UCSC .2bit genomes. Our own reader: py2bit crashes the process on a truncated file."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spacescale.errors import UserError

_MAGIC = 0x1A412743
# The letters of each byte: four bases of two bits, T C A G, the first in the highest bits.
_LETTERS = np.frombuffer(b"TCAG", dtype=np.uint8)
_QUARTETS = _LETTERS[np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3]


def is_two_bit(start: bytes) -> bool:
    """Tell from its first four bytes whether a file is a .2bit, of either byte order."""
    return start in (struct.pack("<I", _MAGIC), struct.pack(">I", _MAGIC))


def two_bit_records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (contig name, letters in upper case) in the order of the file's index.

    Raises UserError naming the file when it ends before its contigs do.
    """
    data = path.read_bytes()
    order = "<" if data[:4] == struct.pack("<I", _MAGIC) else ">"
    try:
        for name, offset in _index(data, order):
            yield name, _letters(data, order, offset)
    except (struct.error, ValueError, OverflowError) as error:
        raise UserError(f"{path} is a damaged or truncated 2bit file ({error})") from error


def _index(data: bytes, order: str) -> Iterator[tuple[str, int]]:
    version, count = struct.unpack_from(order + "II", data, 4)
    if version > 1:
        raise ValueError(f"version {version}")
    offset_type = order + ("Q" if version else "I")
    position = 16
    for _ in range(count):
        end = position + 1 + struct.unpack_from("B", data, position)[0]
        yield data[position + 1 : end].decode(), struct.unpack_from(offset_type, data, end)[0]
        position = end + struct.calcsize(offset_type)


def _letters(data: bytes, order: str, offset: int) -> bytes:
    num_bases, num_gaps = struct.unpack_from(order + "II", data, offset)
    gaps = np.frombuffer(data, order + "u4", 2 * num_gaps, offset + 8).reshape(2, num_gaps)
    offset += 8 + 8 * num_gaps
    (num_masked,) = struct.unpack_from(order + "I", data, offset)
    offset += 4 + 8 * num_masked + 4  # lower-case blocks and a reserved word
    packed = np.frombuffer(data, np.uint8, -(-num_bases // 4), offset)
    letters = _QUARTETS[packed].reshape(-1)[:num_bases]
    for start, length in gaps.T.tolist():
        if start + length > num_bases:
            raise ValueError(f"a stretch of N ends at {start + length:,} of {num_bases:,} bases")
        letters[start : start + length] = ord("N")
    return letters.tobytes()
