"""Targets on the way from where they are read, track by track or window by window, to shards."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spacescale.errors import UserError
from spacescale.files import describe_size

_PAGE = 4096
# So many tracks are turned from [tracks, windows, bins] to [windows, bins, tracks] at a time.
_TRACKS_AT_A_TIME = 64


@dataclass(frozen=True)
class Scratch:
    """A file of float16 targets that many processes fill, part by part in any order.

    by: what a part is: a "track" with all windows, [windows, bins], or a "window" with all
    tracks, [bins, tracks]. Behind the targets of a part lies, for each of its windows, whether
    anything in it is a number: uint8. A part takes whole pages, so that machines which share a
    network disk never write into the same one.
    """

    path: Path
    by: Literal["track", "window"]
    num_windows: int
    num_bins: int
    num_tracks: int

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._part_bytes * (self.num_tracks if self.by == "track" else self.num_windows)

    @property
    def _part_shape(self) -> tuple[int, int]:
        by_track = self.by == "track"
        return (self.num_windows, self.num_bins) if by_track else (self.num_bins, self.num_tracks)

    @property
    def _target_bytes(self) -> int:
        """Bytes of the targets of a part."""
        first, second = self._part_shape
        return 2 * first * second

    @property
    def _part_bytes(self) -> int:
        used = self._target_bytes + (self.num_windows if self.by == "track" else 1)
        return -(-used // _PAGE) * _PAGE

    def refuse_full_disk(self) -> None:
        """Raise UserError where the disk may not hold this file and the dataset made of it."""
        folder = self.path.parent
        free = shutil.disk_usage(folder).free
        if free < 2 * self.num_bytes:
            raise UserError(
                f"{folder.parent} has {describe_size(free)} free; scratch and result together may "
                f"need {describe_size(2 * self.num_bytes)}"
            )

    def create(self) -> None:
        """Make the file, without content yet."""
        with self.path.open("wb") as file:
            file.truncate(self.num_bytes)

    def write(self, parts: Iterable[tuple[int, np.ndarray]]) -> None:
        """Put down parts, each a track or window and its targets; on return they are on disk."""
        # Plain writes: on a full disk a writable memory map would kill the process.
        with self.path.open("r+b") as file:
            for part, targets in parts:
                assert targets.shape == self._part_shape and targets.dtype == np.float16
                by_window = targets if self.by == "track" else targets.reshape(1, -1)
                measured = ~np.isnan(by_window).all(axis=1)
                file.seek(part * self._part_bytes)
                file.write(np.ascontiguousarray(targets).data)
                file.write(measured.astype(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return float16 [rows, bins, tracks]; rows: windows, int, ascending."""
        values = np.empty((rows.size, self.num_bins, self.num_tracks), dtype=np.float16)
        with self.path.open("rb", buffering=0) as file:
            if self.by == "window":
                for place, row in enumerate(rows.tolist()):
                    values[place] = self._values(file.fileno(), row, 0, self.num_bins)
                return values
            runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
            for first in range(0, self.num_tracks, _TRACKS_AT_A_TIME):
                tracks = range(first, min(first + _TRACKS_AT_A_TIME, self.num_tracks))
                block = [
                    [self._values(file.fileno(), track, run[0], run.size) for run in runs]
                    for track in tracks
                ]
                values[:, :, first : tracks.stop] = np.stack(
                    [np.concatenate(track) for track in block], axis=-1
                )
        return values

    def measured(self) -> np.ndarray:
        """Return bool [windows]: whether any track has a number there."""
        found = np.zeros(self.num_windows, dtype=bool)
        parts = range(self.num_tracks if self.by == "track" else self.num_windows)
        with self.path.open("rb", buffering=0) as file:
            for part in parts:
                windows = slice(None) if self.by == "track" else slice(part, part + 1)
                start = part * self._part_bytes + self._target_bytes
                flags = self._bytes(file.fileno(), start, found[windows].size)
                found[windows] |= np.frombuffer(flags, dtype=bool)
        return found

    def _values(self, file: int, part: int, first: int, count: int) -> np.ndarray:
        """Return some rows of a part, float16 [count, second axis of a part]."""
        width = self._part_shape[1]
        start = part * self._part_bytes + 2 * width * int(first)
        content = self._bytes(file, start, 2 * width * count)
        return np.frombuffer(content, dtype=np.float16).reshape(count, width)

    def _bytes(self, file: int, start: int, size: int) -> bytes:
        content = os.pread(file, size, start)
        if len(content) != size:
            raise OSError(f"{self.path} ends early: was it altered?")
        return content
