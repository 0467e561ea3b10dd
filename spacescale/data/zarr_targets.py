"""Targets in a zarr array: one window a chunk, many windows a shard."""

import os
from pathlib import Path

import numpy as np
import zarr

from spacescale.data.codecs import codec_warning_ignored


class ZarrTargets:
    """The array `targets` of a dataset. Cheap to make and to pickle; opened once per process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._opened: tuple[int, zarr.Array] | None = None

    def read(self, row: int) -> np.ndarray:
        """Return the stored values of a window, float16 [bins, tracks].

        What is missing reads as NaN; damage raises whatever zarr or the codec raises.
        """
        return np.asarray(self._array()[row])

    def file_of(self, row: int) -> Path:
        """Return the shard that holds a window."""
        shards = self._array().shards
        return self.folder / "targets" / "c" / str(row // shards[0] if shards else row) / "0" / "0"

    def _array(self) -> zarr.Array:
        # zarr's event loop thread does not survive a fork, so a child opens its own.
        if self._opened is None or self._opened[0] != os.getpid():
            with codec_warning_ignored():
                array = zarr.open_array(self.folder / "targets", mode="r")
            self._opened = os.getpid(), array
        return self._opened[1]

    def __getstate__(self) -> dict:
        """Leave the open array behind when pickled."""
        return self.__dict__ | {"_opened": None}
