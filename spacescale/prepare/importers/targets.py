"""Imported targets: checked, cast to float16, and counted for tracks.tsv and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.dataset.schema import Missing
from spacescale.errors import UserError
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import FLOAT16_MAX, to_float16


@dataclass(frozen=True)
class TargetCounts:
    """What some windows hold, [tracks] each.

    sums, float64, and counts: of the measured bins of windows that count in the tracks' means.
    measured, saturated, negative: bins of all windows. rounded, of all tracks: values that float16
    does not hold.
    """

    sums: np.ndarray
    counts: np.ndarray
    measured: np.ndarray
    saturated: np.ndarray
    negative: np.ndarray
    rounded: np.ndarray

    @classmethod
    def none(cls, num_tracks: int) -> "TargetCounts":
        """Return the counts of no window."""
        zeros = [np.zeros(num_tracks, dtype=np.int64) for _ in range(4)]
        return cls(np.zeros(num_tracks), *zeros, rounded=np.zeros((), dtype=np.int64))

    @classmethod
    def added(cls, counts: Iterable["TargetCounts"]) -> "TargetCounts":
        """Return the counts of all windows together, added in this order."""
        columns = zip(*(vars(each).values() for each in counts), strict=True)
        return cls(*(np.array(sum(column)) for column in columns))

    def to_json(self) -> dict[str, Any]:
        """Return lists of numbers, without loss."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "TargetCounts":
        """Return what `to_json` was made from."""
        return cls(**{field.name: np.array(stored[field.name]) for field in fields(cls)})


class TargetChecks:
    """Takes the targets of windows one by one; `counts` is what they hold.

    missing: "zero" refuses NaN, "nan" takes it for not measured.
    """

    def __init__(self, tracks: Sequence[Track], missing: Missing):
        self._tracks, self._missing = tracks, missing
        self.counts = TargetCounts.none(len(tracks))

    def add(self, place: str, values: np.ndarray, in_mean: bool) -> np.ndarray:
        """Return the targets of a window, [bins, tracks] of any float type, as float16.

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
        self.counts.negative[:] += (counted < 0).sum(axis=0)
        self.counts.measured[:] += measured
        if in_mean:
            self.counts.sums[:] += counted.sum(axis=0, dtype=np.float64)
            self.counts.counts[:] += measured
        return stored

    def _to_float16(self, values: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """Return values as float16; counts those that are beyond it, and those it rounds."""
        stored, _ = to_float16(values)
        beyond = np.abs(values) > FLOAT16_MAX
        self.counts.rounded[...] += np.count_nonzero((stored != values) & finite & ~beyond)
        self.counts.saturated[:] += beyond.sum(axis=0)
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


def finished_tracks(
    tracks: Sequence[Track], counts: TargetCounts, num_bins: int, missing: Missing
) -> list[Track]:
    """Return the tracks with mean, saturated and, where NaN was kept, covered.

    num_bins: of each track, in the windows that are stored.
    """
    with np.errstate(invalid="ignore"):
        means = counts.sums / counts.counts
    # Without NaN the set does not tell what was measured and what is 0.
    known = missing == "nan"
    covered = counts.measured / num_bins if known else np.full(len(tracks), np.nan)
    return [
        replace(
            track,
            file=Path(track.file).name,
            covered=float(covered[column]),
            mean=float(means[column]),
            saturated=int(counts.saturated[column]),
            negative=int(counts.negative[column]),
        )
        for column, track in enumerate(tracks)
    ]


def target_warnings(tracks: Sequence[Track], counts: TargetCounts) -> list[str]:
    """Return what the user should know about the values."""
    found = []
    for column, track in enumerate(tracks):
        if counts.negative[column]:
            found.append(
                f"track {track.identifier} has {counts.negative[column]} values below 0: the "
                "Poisson loss of training has no minimum for them, so training refuses them"
            )
        if counts.saturated[column]:
            number = counts.saturated[column]
            found.append(f"track {track.identifier} has {number} bins beyond float16, cut")
        if not counts.counts[column]:
            found.append(f"track {track.identifier} was not measured in any window of its mean")
        elif not counts.sums[column]:
            found.append(f"track {track.identifier} is 0 in every window of its mean")
    if counts.rounded:
        found.append(
            f"{counts.rounded:,} of {counts.measured.sum():,} values were rounded to float16 "
            "(by at most 1 in 2,048, near 0 by 3e-8)"
        )
    return found
