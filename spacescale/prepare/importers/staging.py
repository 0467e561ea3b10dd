"""Imported targets on their way: checked, cast to float16, put in genome order on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spacescale.dataset.schema import Missing
from spacescale.errors import UserError
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import FLOAT16_MAX, to_float16


class TargetStaging:
    """A scratch file of targets, float16 [rows, bins, tracks], filled in any order.

    Also gathers what tracks.tsv and the report say: sums over the rows of train (over all without
    a train split), shares of measured bins, values beyond float16, values that were rounded.
    """

    def __init__(
        self,
        scratch: Path,
        tracks: Sequence[Track],
        num_rows: int,
        num_bins: int,
        missing: Missing,
    ):
        self._scratch = scratch
        self._tracks = tracks
        self._missing = missing
        self._shape = (num_rows, num_bins, len(tracks))
        self._measured = np.zeros(num_rows, dtype=bool)
        self._sums = np.zeros(len(tracks))
        self._counts = np.zeros(len(tracks), dtype=np.int64)
        self._num_measured = np.zeros(len(tracks), dtype=np.int64)
        self._saturated = np.zeros(len(tracks), dtype=np.int64)
        self._negative = np.zeros(len(tracks), dtype=np.int64)
        self._rounded = 0
        scratch.touch()

    def add(self, row: int, place: str, values: np.ndarray, in_mean: bool) -> None:
        """Put the targets of a window, [bins, tracks] of any float type, into a row.

        place: file and number of the record. in_mean: whether it counts in the tracks' means.
        Raises UserError naming record and track for values that are not finite.
        """
        finite = np.isfinite(values)
        all_finite = bool(finite.all())
        if not all_finite:
            self._refuse_unusable(place, values)
        stored = values if values.dtype == np.float16 else self._to_float16(values, finite)
        measured = np.full(len(self._tracks), values.shape[0])
        counted = stored
        if not all_finite:
            measured, counted = finite.sum(axis=0), np.where(finite, stored, np.float16(0))
        self._negative += (counted < 0).sum(axis=0)
        self._num_measured += measured
        self._measured[row] = measured.any()
        if in_mean:
            self._sums += counted.sum(axis=0, dtype=np.float64)
            self._counts += measured
        # Plain writes: on a full disk a writable memory map would kill the process.
        with self._scratch.open("r+b") as file:
            file.seek(row * stored.nbytes)
            file.write(np.ascontiguousarray(stored).data)

    def _to_float16(self, values: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """Return values as float16; counts those that are beyond it, and those it rounds."""
        stored, _ = to_float16(values)
        beyond = np.abs(values) > FLOAT16_MAX
        self._rounded += int(np.count_nonzero((stored != values) & finite & ~beyond))
        self._saturated += beyond.sum(axis=0)
        return stored

    def _refuse_unusable(self, place: str, values: np.ndarray) -> None:
        unusable = np.isinf(values) if self._missing == "nan" else ~np.isfinite(values)
        if not unusable.any():
            return
        bin_, column = np.argwhere(unusable)[0].tolist()
        value = values[bin_, column]
        cure = (
            "; --missing nan keeps NaN as 'not measured'"
            if np.isnan(value)
            else ": an overflow of float16 when the set was made?"
        )
        raise UserError(
            f"{place}: track {self._tracks[column].identifier} is {value} in bin {bin_}{cure}"
        )

    def measured_rows(self) -> np.ndarray:
        """Return the rows in which some track was measured, int64, ascending."""
        return np.flatnonzero(self._measured)

    def num_unmeasured(self) -> int:
        """Return how many rows are left out, because nothing was measured in them."""
        return self._measured.size - self.measured_rows().size

    def targets(self) -> "StagedTargets":
        """Return the targets of `measured_rows`."""
        stored = np.memmap(self._scratch, dtype=np.float16, mode="r", shape=self._shape)
        return StagedTargets(stored, self.measured_rows())

    def finished_tracks(self) -> list[Track]:
        """Return the tracks with mean, saturated and, where NaN was kept, covered."""
        num_bins = self.measured_rows().size * self._shape[1]
        with np.errstate(invalid="ignore"):
            means = self._sums / self._counts
        # Without NaN the set does not tell what was measured and what is 0.
        known = self._missing == "nan"
        covered = self._num_measured / num_bins if known else np.full(len(self._tracks), np.nan)
        return [
            replace(
                track,
                file=Path(track.file).name,
                covered=float(covered[column]),
                mean=float(means[column]),
                saturated=int(self._saturated[column]),
                negative=int(self._negative[column]),
            )
            for column, track in enumerate(self._tracks)
        ]

    def warnings(self) -> list[str]:
        """Return what the user should know about the values."""
        found = []
        for column, track in enumerate(self._tracks):
            if self._negative[column]:
                found.append(
                    f"track {track.identifier} has {self._negative[column]} values below 0: the "
                    "Poisson loss of training has no minimum for them, so training refuses them"
                )
            if self._saturated[column]:
                number = self._saturated[column]
                found.append(f"track {track.identifier} has {number} bins beyond float16, cut")
            if not self._counts[column]:
                found.append(f"track {track.identifier} was not measured in any window of its mean")
            elif not self._sums[column]:
                found.append(f"track {track.identifier} is 0 in every window of its mean")
        if self._rounded:
            found.append(
                f"{self._rounded:,} of {self._num_measured.sum():,} values were rounded to float16 "
                "(by at most 1 in 2,048, near 0 by 3e-8)"
            )
        return found


class StagedTargets:
    """Some rows of the scratch file, sliced like an array; float16 [rows, bins, tracks]."""

    def __init__(self, stored: np.ndarray, rows: np.ndarray):
        self._stored = stored
        self._rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(windows, bins, tracks)."""
        return (self._rows.size, *self._stored.shape[1:])

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return the targets of these windows."""
        return np.asarray(self._stored[self._rows[rows]])
