"""Read TFRecord files without TensorFlow, and never more of them than one record at a time.

A file is records one after another, little-endian: length (uint64) · masked CRC-32C of the length ·
data · masked CRC-32C of the data. The whole file may be compressed with zlib or gzip; the content
tells, not the name.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c

from spacescale.errors import UserError
from spacescale.genome.file_kinds import refuse_other_kinds

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_GZIP = b"\x1f\x8b"
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_READ_BYTES = 2**20


def read_records(path: Path, max_bytes: int) -> Iterator[bytes]:
    """Yield the data of each record in the order of the file; a file may hold none.

    Both checksums of every record are compared. Raises UserError naming file and record for
    damage, truncation, or a record longer than max_bytes.
    """
    if not path.is_file():
        raise UserError(f"no such TFRecord file: {path}")
    with path.open("rb") as file:
        stream = _opened(path, file)
        number = 0
        while header := stream.read(_HEADER.size):
            yield _record(f"{path}: record {number}", stream, header, max_bytes)
            number += 1


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of data, rotated and shifted as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _record(place: str, stream: "_Plain | _Inflated", header: bytes, max_bytes: int) -> bytes:
    if not _is_header(header):
        raise UserError(f"{place} has a damaged or truncated header: copy the file again")
    length, _ = _HEADER.unpack(header)
    if length > max_bytes:
        raise UserError(f"{place} has {length:,} bytes; the sizes of the set allow {max_bytes:,}")
    data = stream.read(length + _CRC.size)
    if len(data) < length + _CRC.size:
        raise UserError(f"{place} is truncated: copy the file again")
    if _CRC.unpack_from(data, length)[0] != masked_crc32c(data[:length]):
        raise UserError(f"{place} does not match its checksum: copy the file again")
    return data[:length]


def _is_header(start: bytes) -> bool:
    if len(start) < _HEADER.size:
        return False
    _, crc = _HEADER.unpack_from(start)
    return crc == masked_crc32c(start[:8])


def _opened(path: Path, file: IO[bytes]) -> "_Plain | _Inflated":
    start = file.read(_HEADER.size)
    file.seek(0)
    if not start or _is_header(start):
        return _Plain(file)
    if start.startswith(_GZIP) or _is_zlib(start):
        return _Inflated(path, file)
    refuse_other_kinds(path, "a TFRecord file")
    raise UserError(
        f"{path} is no TFRecord file, plain, zlib or gzip, or is damaged from its first bytes on "
        f"({start[:8]!r})"
    )


def _is_zlib(start: bytes) -> bool:
    return len(start) >= 2 and start[0] & 15 == 8 and int.from_bytes(start[:2], "big") % 31 == 0


class _Plain:
    def __init__(self, file: IO[bytes]):
        self._file = file

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only where the file ends."""
        return self._file.read(size)


class _Inflated:
    """A compressed file, inflated as far as it is read."""

    def __init__(self, path: Path, file: IO[bytes]):
        self._path = path
        self._file = file
        self._inflate = zlib.decompressobj(_ZLIB_OR_GZIP)
        self._input = b""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only where the stream ends."""
        parts, missing = [], size
        while missing and (part := self._next(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _next(self, limit: int) -> bytes:
        """Return between one and `limit` bytes, or none at the end."""
        while True:
            if self._inflate.eof:
                self._input = self._inflate.unused_data or self._file.read(_READ_BYTES)
                if not self._input:
                    return b""
                self._inflate = zlib.decompressobj(_ZLIB_OR_GZIP)
            try:
                part = self._inflate.decompress(self._input, limit)
            except zlib.error as error:
                raise UserError(f"{self._path} is damaged ({error}): copy it again") from error
            self._input = self._inflate.unconsumed_tail
            if part:
                return part
            if not self._input and not self._inflate.eof:
                self._input = self._file.read(_READ_BYTES)
                if not self._input:
                    raise UserError(f"{self._path} is truncated: copy it again")
