"""The data of one training run, as one object."""

from __future__ import annotations

from dataclasses import dataclass

from spacescale.dataset.loader import TrainingWindows
from spacescale.dataset.reader import SpeciesData
from spacescale.genome.tracks import Track


@dataclass(frozen=True)
class RunData:
    """Opened data sets by species, in the model's order, and this rank's training windows."""

    datasets: dict[str, SpeciesData]
    windows: TrainingWindows

    @property
    def tracks(self) -> dict[str, list[Track]]:
        """Species → tracks, in column order of the targets."""
        return {name: data.tracks for name, data in self.datasets.items()}

    @property
    def manifest_hashes(self) -> dict[str, str]:
        """Species → SHA-256 of manifest.json: the identity of its data set."""
        return {name: data.manifest_hash for name, data in self.datasets.items()}

    @property
    def split_hashes(self) -> dict[str, str]:
        """Species → hash of its windows and their splits."""
        return {name: data.manifest.split.hash for name, data in self.datasets.items()}

    @property
    def transforms(self) -> dict[str, str]:
        """Species → name of the transform that made its targets of coverage."""
        return {name: data.manifest.transform.name for name, data in self.datasets.items()}

    @property
    def contigs(self) -> dict[str, dict[str, int]]:
        """Species → length in bp of its contigs, by name, where all of a contig is known."""
        return {name: data.manifest.whole_contigs for name, data in self.datasets.items()}

    @property
    def with_unmeasured(self) -> set[str]:
        """Species whose targets are NaN where a track was not measured."""
        return {name for name, data in self.datasets.items() if data.manifest.missing == "nan"}
