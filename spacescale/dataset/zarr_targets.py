"""Targets in a zarr array: one window a chunk, many windows a shard.

The shards are those of zarr's specification (version 3, codec sharding_indexed), and the zarr
library writes them. Reading one is little: the index at the end of the file, a chunk, its checksum,
its codec. Done here it takes three quarters of the library's processor time (benchmarks/README.md)
and works in any process, forked or not: nothing stays open.
"""

from os import pread
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import Zstd
from numcodecs.pcodec import PCodec

from spacescale.dataset.schema import Manifest

_NEVER_WRITTEN = 2**64 - 1
_CHECKSUM_BYTES = 4


class ZarrTargets:
    """The array `targets` of a dataset. Keeps no file open."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder / "targets"
        self._codec = manifest.storage.codec
        self._windows_per_shard = manifest.storage.windows_per_shard
        self._shape = manifest.target_length, manifest.num_tracks

    def read(self, row: int) -> np.ndarray:
        """Return the stored values of a window, float16 [bins, tracks]; NaN if never written.

        Raises OSError when the shard cannot be read and ValueError when it is damaged.
        """
        path = self.file_of(row)
        if not path.is_file():
            return self._never_written()
        with path.open("rb", buffering=0) as file:
            index_bytes = 16 * self._windows_per_shard + _CHECKSUM_BYTES
            start = path.stat().st_size - index_bytes
            index = np.frombuffer(_read_checked(file.fileno(), start, index_bytes), "<u8")
            offset, size = index.reshape(-1, 2)[row % self._windows_per_shard].tolist()
            if offset == size == _NEVER_WRITTEN:
                return self._never_written()
            content = _read_checked(file.fileno(), offset, size)
        return _decode(content, self._codec).reshape(self._shape)

    def _never_written(self) -> np.ndarray:
        return np.full(self._shape, np.nan, dtype=np.float16)

    def file_of(self, row: int) -> Path:
        """Return the shard that holds a window."""
        return self.folder / "c" / str(row // self._windows_per_shard) / "0" / "0"


def _read_checked(descriptor: int, offset: int, size: int) -> bytes:
    """Return bytes of a file that end with their CRC-32C, without it."""
    content = pread(descriptor, size, offset) if offset >= 0 else b""
    if len(content) != size:
        raise ValueError(f"the file ends before byte {offset + size}")
    content, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if google_crc32c.value(content) != int.from_bytes(checksum, "little"):
        raise ValueError(f"bytes {offset} to {offset + size} do not match their checksum")
    return content


def _decode(content: bytes, codec: str) -> np.ndarray:
    """Return float16 values as `codecs.targets_codecs` has them compressed."""
    if codec == "pcodec":
        return np.asarray(PCodec().decode(content))
    plain = Zstd().decode(content) if codec == "zstd" else content
    return np.frombuffer(plain, "<f2")
