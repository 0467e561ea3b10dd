"""Targets by track, on the way from coverage, read track by track, to shards of windows."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_PAGE = 4096
# So many tracks are turned from [tracks, windows, bins] to [windows, bins, tracks] at a time.
_TRACKS_AT_A_TIME = 64


@dataclass(frozen=True)
class Scratch:
    """A file of float16 [tracks, windows, bins] that many processes fill, track by track.

    Behind the targets of each track lies, for each window, whether any of its bins is a number:
    uint8 [windows]. A track takes whole pages, so that machines which share a network disk never
    write into the same one.
    """

    path: Path
    num_tracks: int
    num_windows: int
    num_bins: int

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self.num_tracks * self._track_bytes

    @property
    def _row_bytes(self) -> int:
        return 2 * self.num_bins

    @property
    def _track_bytes(self) -> int:
        used = self.num_windows * (self._row_bytes + 1)
        return -(-used // _PAGE) * _PAGE

    def create(self) -> None:
        """Make the file, without content yet."""
        with self.path.open("wb") as file:
            file.truncate(self.num_bytes)

    def write(self, track: int, targets: np.ndarray) -> None:
        """Put down the targets of a track, float16 [windows, bins]; on return they are on disk."""
        assert targets.shape == (self.num_windows, self.num_bins) and targets.dtype == np.float16
        measured = ~np.isnan(targets).all(axis=1)
        # Plain writes: on a full disk a writable memory map would kill the process.
        with self.path.open("r+b") as file:
            file.seek(track * self._track_bytes)
            file.write(np.ascontiguousarray(targets).data)
            file.write(measured.astype(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return float16 [rows, bins, tracks]; rows: windows, int, ascending."""
        values = np.empty((rows.size, self.num_bins, self.num_tracks), dtype=np.float16)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        with self.path.open("rb", buffering=0) as file:
            for first in range(0, self.num_tracks, _TRACKS_AT_A_TIME):
                tracks = range(first, min(first + _TRACKS_AT_A_TIME, self.num_tracks))
                block = [self._read_track(file.fileno(), track, runs) for track in tracks]
                values[:, :, first : tracks.stop] = np.stack(block, axis=-1)
        return values

    def _read_track(self, file: int, track: int, runs: list[np.ndarray]) -> np.ndarray:
        parts = [
            self._read_bytes(
                file,
                run.size * self._row_bytes,
                track * self._track_bytes + int(run[0]) * self._row_bytes,
            )
            for run in runs
        ]
        return np.frombuffer(b"".join(parts), dtype=np.float16).reshape(-1, self.num_bins)

    def measured(self) -> np.ndarray:
        """Return bool [windows]: whether any track has a number there."""
        found = np.zeros(self.num_windows, dtype=bool)
        with self.path.open("rb", buffering=0) as file:
            for track in range(self.num_tracks):
                start = track * self._track_bytes + self.num_windows * self._row_bytes
                flags = self._read_bytes(file.fileno(), self.num_windows, start)
                found |= np.frombuffer(flags, dtype=bool)
        return found

    def _read_bytes(self, file: int, size: int, start: int) -> bytes:
        content = os.pread(file, size, start)
        if len(content) != size:
            raise OSError(f"{self.path} ends early: was it altered?")
        return content
