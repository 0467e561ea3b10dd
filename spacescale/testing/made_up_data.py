"""A dataset made up in seconds that is read as a real one is: for measuring, not for learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.dataset.schema import (
    Contig,
    Manifest,
    Report,
    Sources,
    Split,
    Storage,
    TransformInfo,
)
from spacescale.genome.intervals import Interval, split_hash, windows_per_split
from spacescale.genome.tracks import Track
from spacescale.prepare.writer import created_with, write_dataset

ASSAYS = ("cage", "dnase_atac", "histone_chip", "tf_chip")


class MadeUpWindows:
    """Windows made up so that their targets compress as the public human set does.

    Track levels, peaks and noise, all log-normal. Half of the tracks are 0 in 81 % of their bins,
    as the CAGE and RNA tracks of the public 74-track set are. zlib makes this float16 about 1.47
    times smaller and PCodec 1.75 times, as measured on a window of the full set.

    shape: (windows, bins, tracks); the last `num_valid` windows are of the valid split. Another
    `seed` gives other bases and targets.
    """

    def __init__(
        self,
        num_windows: int,
        bins: int,
        tracks: int,
        seq_length: int,
        bin_size: int,
        num_valid: int = 0,
        seed: int = 0,
    ):
        self.shape = num_windows, bins, tracks
        self.seq_length, self.bin_size, self.num_valid = seq_length, bin_size, num_valid
        self.seed = seed
        span, num_train = bins * bin_size, num_windows - num_valid
        self.intervals = [
            Interval("chr1", i * span, (i + 1) * span, "train" if i < num_train else "valid")
            for i in range(num_windows)
        ]
        random = np.random.default_rng([0, seed])
        self.genome = random.integers(0, 4, num_windows * span, dtype=np.uint8)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Targets float16 [rows, bins, tracks]."""
        return np.stack([self._targets(row) for row in range(*rows.indices(self.shape[0]))])

    def _targets(self, row: int) -> np.ndarray:
        random = np.random.default_rng([1, row, self.seed])
        _, bins, tracks = self.shape
        level = np.exp(np.random.default_rng([2, self.seed]).normal(0, 1, tracks))
        peaks = np.exp(random.normal(0, 0.8, (bins, 1)))
        values = level * peaks * np.exp(0.5 * random.standard_normal((bins, tracks)))
        sparse = np.random.default_rng([3, self.seed]).random(tracks) < 0.5
        values[:, sparse] *= random.random((bins, int(sparse.sum()))) > 0.81
        return values.astype(np.float16)

    def sequence(self, row: int) -> np.ndarray:
        """Base codes uint8 [seq_length] around the target, N (4) past the ends."""
        margin = (self.seq_length - self.shape[1] * self.bin_size) // 2
        padded = np.pad(self.genome, margin, constant_values=4)
        start = self.intervals[row].start
        return padded[start : start + self.seq_length]

    def write(self, folder: Path) -> Path:
        """Write them as a dataset, whose species is named as the folder; returns the folder."""
        tracks = [
            Track(i, f"track{i}", "made_up.bw", i, assay=ASSAYS[i % len(ASSAYS)], covered=1, mean=1)
            for i in range(self.shape[2])
        ]
        manifest = manifest_of(
            self.intervals,
            species=folder.name,
            seq_length=self.seq_length,
            bin_size=self.bin_size,
            target_length=self.shape[1],
            num_tracks=len(tracks),
            contigs=[Contig(name="chr1", length=self.genome.size, offset=0)],
        )
        return write_dataset(folder, manifest, [self.genome], self.intervals, tracks, self)


def manifest_of(windows: Sequence[Interval], **fields: Any) -> Manifest:
    """The manifest of windows that tile, with nothing to report; fields: those it lacks, or has
    otherwise.
    """
    usual = {
        "stride": fields["bin_size"] * fields["target_length"],
        "transform": TransformInfo(name="imported", version=1),
        "missing": "zero",
        "storage": Storage(),
        "split": Split(method="imported", hash=split_hash(windows)),
        "num_windows": windows_per_split(windows),
        "mean_over": "train",
        "aliases": {},
        "sources": Sources(),
        "report": Report(),
        "files": {},
        "created_with": created_with(),
    }
    return Manifest(**(usual | fields))
