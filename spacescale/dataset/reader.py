"""Read a species dataset: sequence and targets by window, with nothing missing unnoticed."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from spacescale.dataset.interval_table import IntervalTable
from spacescale.dataset.manifest import read_manifest
from spacescale.dataset.schema import Contig, GenomeManifest, Manifest
from spacescale.dataset.species_genome import SpeciesGenome, check_files
from spacescale.dataset.tar_targets import TarTargets
from spacescale.dataset.zarr_targets import ZarrTargets
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.aliases import shorten
from spacescale.genome.tracks import Track, read_tracks

_INFINITY = 0x7C00  # the bits of float16's infinity; above it, sign aside, all is NaN


class TargetsStore(Protocol):
    """Where the targets of the windows lie."""

    def read(self, row: int) -> np.ndarray:
        """Return the stored values of a window, float16 [bins, tracks]; all NaN if missing."""
        ...

    def file_of(self, row: int) -> Path:
        """Return the file that holds a window."""
        ...


class SpeciesData(SpeciesGenome):
    """A species dataset with tracks. Cheap to open and to pickle.

    Beside what a SpeciesGenome has: tracks (in column order of the targets) and windows (their
    intervals, a row each).
    """

    manifest: Manifest

    def __init__(self, path: Path, manifest: GenomeManifest, manifest_hash: str):
        if not isinstance(manifest, Manifest):
            raise UserError(
                f"{path}: species {manifest.species!r} has no tracks: it is a genome alone, to be "
                "trained on as bases or tokens and scored as such; training by profiles and all "
                "that looks at profiles need a species of data_prep/shard.py"
            )
        super().__init__(path, manifest, manifest_hash)
        self.seq_length = manifest.seq_length
        self.bin_size = manifest.bin_size
        self.target_length = manifest.target_length
        self.tracks: list[Track] = read_tracks(path / "tracks.tsv")
        self.windows = IntervalTable.read(path / "windows.bed")
        self._targets = _open_store(path, manifest)
        if len(self.tracks) != manifest.num_tracks:
            raise UserError(f"{path}: tracks.tsv and manifest.json differ in the number of tracks")
        if len(self.windows) != sum(manifest.num_windows.values()):
            raise UserError(f"{path}: windows.bed and manifest.json differ in the number of rows")

    def __repr__(self) -> str:
        return f"SpeciesData({self.name}: {len(self.windows)} windows, {len(self.tracks)} tracks)"

    def __len__(self) -> int:
        return len(self.windows)

    @cached_property
    def track_mean(self) -> np.ndarray:
        """Mean of each track's targets over the train windows, float32 [tracks]."""
        return np.array([track.mean for track in self.tracks], dtype=np.float32)

    @cached_property
    def strand_pair(self) -> np.ndarray:
        """Column of each track's opposite strand, int64 [tracks]; its own if unstranded."""
        return np.array([track.strand_pair for track in self.tracks], dtype=np.int64)

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64, ascending; UserError names the splits there are."""
        if split not in self.manifest.num_windows:
            raise UserError(
                f"{self.path} has no split {split!r}; it has {', '.join(self.manifest.num_windows)}"
            )
        return np.flatnonzero(self.windows.split == split).astype(np.int64)

    def distinct_bp(self, rows: np.ndarray) -> int:
        """Return how many bases the targets of ascending rows cover, each counted once."""
        span = self.bin_size * self.target_length
        chrom, start = self.windows.chrom[rows], self.windows.start[rows]
        further = np.minimum(np.diff(start), span)
        return int(np.where(chrom[1:] == chrom[:-1], further, span).sum()) + span * bool(len(rows))

    def sequence(self, row: int, seq_length: int | None = None, shift: int = 0) -> np.ndarray:
        """Return the bases around the target of a row as codes (A0 C1 G2 T3 N4).

        uint8 [seq_length in bp, default the dataset's], centred on the target interval and then
        moved `shift` bp to the right; N past the ends of the contig. seq_length may be any that
        differs from the target's span by an even number.
        """
        length = self.seq_length if seq_length is None else seq_length
        contig = self.contig(row)
        start = self.first_base(row, length, shift) - contig.start
        inside = slice(max(start, 0), max(min(start + length, contig.length), 0))
        self._refuse_unknown_context(contig, length)
        codes = np.full(length, dna.N, dtype=np.uint8)
        if inside.start < inside.stop:
            try:
                found = self._bases(contig.offset + inside.start, contig.offset + inside.stop)
            except UserError as error:
                place = f"row {row} ({self.place(row)})"
                raise UserError(f"{error}, read for {place}") from error.__cause__
            codes[inside.start - start : inside.stop - start] = found
        return codes

    def first_base(self, row: int, seq_length: int, shift: int = 0) -> int:
        """Return the coordinate of the first base of `sequence`, below 0 before the contig."""
        margin = seq_length - self.target_length * self.bin_size
        if seq_length < 1 or margin % 2:
            raise ValueError(
                f"seq_length {seq_length} must be positive and differ by an even number from the "
                f"target's {self.target_length * self.bin_size} bp"
            )
        return int(self.windows.start[row]) - margin // 2 + shift

    def contig(self, row: int) -> Contig:
        """Return the stored contig, or piece of one, that holds the target of a row.

        Raises UserError when none does.
        """
        return self._contigs.find(
            str(self.windows.chrom[row]), int(self.windows.start[row]), int(self.windows.end[row])
        )

    def _refuse_unknown_context(self, contig: Contig, length: int) -> None:
        if not contig.whole and length > self.seq_length:
            raise UserError(
                f"{self.path} holds pieces of contigs, {self.seq_length:,} bp around each window; "
                f"{length:,} bp need the genome: prepare it again with --fasta"
            )

    def targets(self, row: int) -> np.ndarray:
        """Return the targets of a row, float16 [bins, tracks].

        NaN where the track was not measured, if the dataset keeps that apart from zero.
        Raises UserError naming file and window when the stored chunk is missing or damaged.
        """
        if not 0 <= row < len(self.windows):
            raise IndexError(f"row {row} of {len(self.windows)}")
        try:
            values = self._targets.read(row)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._describe_window(row)} is damaged, copy the dataset again ({error})"
            ) from error
        if _has_nan(values):
            self._check_unmeasured(row, np.isnan(values))
        return values

    def _check_unmeasured(self, row: int, unmeasured: np.ndarray) -> None:
        if unmeasured.all():
            raise UserError(f"{self._describe_window(row)} is missing")
        if self.manifest.missing == "zero":
            tracks = [self.tracks[i].identifier for i in np.flatnonzero(unmeasured.any(axis=0))]
            raise UserError(f"{self._describe_window(row)} holds NaN in {shorten(tracks)}")

    def file_of(self, row: int) -> Path:
        """Return the file that holds the targets of a row."""
        return self._targets.file_of(row)

    def _describe_window(self, row: int) -> str:
        return f"{self._targets.file_of(row)}: row {row} ({self.place(row)})"

    def place(self, row: int) -> str:
        """Say where the target of a row lies: contig:start-end, 0-based half-open."""
        windows = self.windows
        return f"{windows.chrom[row]}:{windows.start[row]}-{windows.end[row]}"


def _has_nan(values: np.ndarray) -> bool:
    """Whether float16 values hold a NaN; np.isnan takes as long as decompressing them."""
    return bool((values.view(np.uint16) & 0x7FFF).max() > _INFINITY)


def _open_store(path: Path, manifest: Manifest) -> TargetsStore:
    if manifest.storage.format == "webdataset":
        return TarTargets(path, manifest)
    return ZarrTargets(path, manifest)


def open_species(path: Path) -> SpeciesGenome:
    """Open a species folder as `SpeciesGenome.open` does; a SpeciesData if it has tracks."""
    manifest, manifest_hash = read_manifest(path)
    check_files(path, manifest)
    return species_of(path, manifest, manifest_hash)


def reopen(path: Path, manifest_hash: str) -> SpeciesGenome:
    """Open a dataset that was checked when it was opened first, as another process had it.

    Raises UserError where another dataset lies there now.
    """
    manifest, found = read_manifest(path)
    if found != manifest_hash:
        raise UserError(f"{path}: another dataset than when the run began")
    return species_of(path, manifest, found)


def species_of(path: Path, manifest: GenomeManifest, manifest_hash: str) -> SpeciesGenome:
    """Return the dataset of a manifest; its files are not looked at."""
    kind = SpeciesData if isinstance(manifest, Manifest) else SpeciesGenome
    return kind(path, manifest, manifest_hash)


def with_tracks(genomes: Mapping[str, SpeciesGenome]) -> dict[str, SpeciesData]:
    """Those of the species that have tracks."""
    return {name: data for name, data in genomes.items() if isinstance(data, SpeciesData)}
