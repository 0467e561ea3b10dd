"""What data sets hold, as far as a recommendation depends on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacescale.dataset.reader import SpeciesData

_VALUES_LOOKED_AT = 2**25  # targets read of a species; seconds


@dataclass(frozen=True)
class TrackFacts:
    """One track in the training windows that were looked at."""

    identifier: str
    assay: str
    measured: float  # share of the bins
    above_zero: float  # share of the measured bins; NaN without any


@dataclass(frozen=True)
class SpeciesFacts:
    """One data set."""

    name: str
    windows: dict[str, int]  # split → number
    train_bp: int  # bases under the targets of training windows, each counted once
    train_bins: int  # the same in bins
    tracks: list[TrackFacts]
    looked_at: int  # training windows
    zero_filled: bool  # what was not measured stands as 0
    measured_known: bool  # imported sets that are zero-filled do not tell; it is taken as all

    @property
    def measured_bins(self) -> float:
        """Bins of the training windows, each base once, that an average track measures."""
        return self.train_bins * float(np.mean([track.measured for track in self.tracks]))


def look_at(data: SpeciesData) -> SpeciesFacts:
    """Read training windows, evenly spread, up to some ten million targets.

    Where the data set holds 0 for what was not measured, the table of its tracks tells how much
    of the targets that is (NaN, and then all, for imported sets).
    Raises UserError for a window that cannot be read.
    """
    rows = data.rows("train")
    most = max(1, _VALUES_LOOKED_AT // (data.target_length * len(data.tracks)))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    measured = np.zeros(len(data.tracks), dtype=np.int64)
    above_zero = measured.copy()
    for row in rows[chosen]:
        targets = data.targets(int(row))  # (N, T)
        measured += np.isfinite(targets).sum(0)
        above_zero += (targets > 0).sum(0)
    share = measured / (len(chosen) * data.target_length)
    zero_filled, covered = data.manifest.missing == "zero", np.ones(0)
    if zero_filled:
        covered = np.array([track.covered for track in data.tracks])
        share = np.where(np.isnan(covered), 1.0, covered)
    with np.errstate(invalid="ignore"):
        of_measured = above_zero / measured
    found = zip(data.tracks, share.tolist(), of_measured.tolist(), strict=True)
    train_bp = data.distinct_bp(rows)
    return SpeciesFacts(
        name=data.name,
        windows=dict(data.manifest.num_windows),
        train_bp=train_bp,
        train_bins=train_bp // data.bin_size,
        tracks=[TrackFacts(t.identifier, t.assay, share, above) for t, share, above in found],
        looked_at=len(chosen),
        zero_filled=zero_filled,
        measured_known=not np.isnan(covered).any(),
    )
