"""The data of one training run, as one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spacescale.dataset.loader import Windows
from spacescale.dataset.reader import with_tracks
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.genome.tracks import Track


@dataclass(frozen=True)
class KeptSpecies:
    """What a model knows of species that it was trained on before this run, which reads none.

    Its parts are those of `RunData` of the same names.
    """

    tracks: Mapping[str, list[Track]] = field(default_factory=dict)
    manifest_hashes: Mapping[str, str | None] = field(default_factory=dict)
    split_hashes: Mapping[str, str] = field(default_factory=dict)
    transforms: Mapping[str, str] = field(default_factory=dict)
    contigs: Mapping[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    """Opened data sets by species, in the model's order, and this rank's training windows.

    Data sets without tracks have no part in what is said of tracks and their transforms.

    of_bases: whether it matters which split single bases belong to, and not windows' alone.
    kept: species that the model keeps without data. They come before the others, and what is said
    of species here is said of them, too, where it is known.
    """

    datasets: Mapping[str, SpeciesGenome]
    windows: Windows
    of_bases: bool = False
    kept: KeptSpecies = KeptSpecies()

    @property
    def tracks(self) -> dict[str, list[Track]]:
        """Species → tracks, in column order of the targets."""
        read = {name: data.tracks for name, data in with_tracks(self.datasets).items()}
        return {**self.kept.tracks, **read}

    @property
    def manifest_hashes(self) -> dict[str, str | None]:
        """Species → SHA-256 of manifest.json: the identity of its data set, None if not known."""
        read = {name: data.manifest_hash for name, data in self.datasets.items()}
        return {**self.kept.manifest_hashes, **read}

    @property
    def split_hashes(self) -> dict[str, str]:
        """Species → hash of its windows and their splits, see `SpeciesGenome.splits_identity`."""
        read = {name: data.splits_identity(self.of_bases) for name, data in self.datasets.items()}
        return {**self.kept.split_hashes, **read}

    @property
    def transforms(self) -> dict[str, str]:
        """Species → name of the transform that made its targets of coverage."""
        measured = with_tracks(self.datasets)
        read = {name: data.manifest.transform.name for name, data in measured.items()}
        return {**self.kept.transforms, **read}

    @property
    def contigs(self) -> dict[str, dict[str, int]]:
        """Species → length in bp of its contigs, by name, where all of a contig is known."""
        read = {name: data.manifest.whole_contigs for name, data in self.datasets.items()}
        return {**self.kept.contigs, **read}
