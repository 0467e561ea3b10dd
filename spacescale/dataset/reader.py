"""Read a species dataset: sequence and targets by window, with nothing missing unnoticed."""

import os
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import zarr

from spacescale.dataset.codecs import first_error
from spacescale.dataset.folder import file_fault, size_fault, unexpected_files
from spacescale.dataset.manifest import read_manifest
from spacescale.dataset.schema import MANIFEST, Contig, Manifest
from spacescale.dataset.tar_targets import INDEX, SHARDS, TarTargets
from spacescale.dataset.zarr_targets import ZarrTargets
from spacescale.errors import UserError
from spacescale.files import sha256
from spacescale.genome import dna
from spacescale.genome.aliases import shorten
from spacescale.genome.intervals import Interval
from spacescale.genome.tracks import Track, read_tracks

# A genome up to this many bp is decoded once and kept; from a larger one each read takes its
# own chunks.
_KEEP_GENOME_BP = 256 * 2**20
_WITHOUT_CHECKSUMS = {
    "windows.bed", "tracks.tsv", "zarr.json", "genome/zarr.json", "targets/zarr.json",
    f"{SHARDS}/{INDEX}",
}  # fmt: skip
_INFINITY = 0x7C00  # the bits of float16's infinity; above it, sign aside, all is NaN


@dataclass(frozen=True)
class Windows:
    """Target intervals, one per row: chrom and split as str, start and end as int64 [rows], bp.

    0-based half-open, in genome order; start is never negative and end never past the contig.
    """

    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return self.start.size

    def intervals(self) -> list[Interval]:
        """Return the rows as intervals."""
        columns = (self.chrom, self.start, self.end, self.split)
        return [Interval(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


class TargetsStore(Protocol):
    """Where the targets of the windows lie."""

    def read(self, row: int) -> np.ndarray:
        """Return the stored values of a window, float16 [bins, tracks]; all NaN if missing."""
        ...

    def file_of(self, row: int) -> Path:
        """Return the file that holds a window."""
        ...


@dataclass
class _OpenGenome:
    """What one process has open. decoded: the whole genome, uint8, once it was needed."""

    pid: int
    array: zarr.Array
    decoded: np.ndarray | None = None


class SpeciesData:
    """A species dataset on disk. Cheap to open and to pickle; files are opened once per process.

    path, name, manifest, tracks (in column order of the targets), windows, manifest_hash
    (SHA-256 of manifest.json: the identity of the data).
    """

    @classmethod
    def open(cls, path: str | Path) -> "SpeciesData":
        """Open the dataset folder, when every file is there with the size it should have.

        Of the tables the content is compared, too: they hold no checksums as bases and targets do.
        Raises UserError when the folder is no dataset, of another format version, incomplete
        or damaged. `verify` checks the contents too.
        """
        path = Path(path)
        manifest, manifest_hash = read_manifest(path)
        _check_files(path, manifest)
        return cls(path, manifest, manifest_hash)

    def __init__(self, path: Path, manifest: Manifest, manifest_hash: str):
        self.path = path
        self.manifest = manifest
        self.manifest_hash = manifest_hash
        self.name = manifest.species
        self.seq_length = manifest.seq_length
        self.bin_size = manifest.bin_size
        self.target_length = manifest.target_length
        self.tracks: list[Track] = read_tracks(path / "tracks.tsv")
        self.windows = _read_windows(path / "windows.bed")
        self._contigs = _ContigIndex(manifest.contigs)
        self._targets = _open_store(path, manifest)
        self._genome: _OpenGenome | None = None
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
        margin = length - self.target_length * self.bin_size
        if length < 1 or margin % 2:
            raise ValueError(
                f"seq_length {length} must be positive and differ by an even number from the "
                f"target's {self.target_length * self.bin_size} bp"
            )
        contig = self.contig(row)
        start = int(self.windows.start[row]) - margin // 2 + shift - contig.start
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

    def contig(self, row: int) -> Contig:
        """Return the stored contig, or piece of one, that holds the target of a row.

        Raises UserError when none does.
        """
        return self._contigs.find(
            str(self.windows.chrom[row]), int(self.windows.start[row]), int(self.windows.end[row])
        )

    def bases(self, contig: Contig, start: int, end: int) -> np.ndarray:
        """Return the codes of a stretch of a stored contig, uint8 [end − start in bp].

        start and end count from the contig's own coordinate 0, as windows do. Raises UserError
        when the genome is damaged.
        """
        assert contig.start <= start <= end <= contig.start + contig.length
        offset = contig.offset - contig.start
        return self._bases(offset + start, offset + end)

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

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest; UserError lists what differs.

        `spacescale.verify.check` also checks what the files hold.
        """
        files = self.manifest.files
        damaged = [name for name, entry in files.items() if file_fault(self.path / name, entry)]
        if damaged := damaged + unexpected_files(self.path, files):
            raise UserError(
                f"{self.path}: differing from the manifest: {shorten(damaged)}; copy it again"
            )
        if sha256(self.path / MANIFEST) != self.manifest_hash:
            raise UserError(f"{self.path / MANIFEST} has changed since it was opened")

    def _bases(self, start: int, end: int) -> np.ndarray:
        genome = self._open_genome()
        if genome.decoded is not None:
            return genome.decoded[start:end]
        size = genome.array.shape[0]
        if size > _KEEP_GENOME_BP:
            return self._read_genome(genome.array, start, end)
        genome.decoded = self._read_genome(genome.array, 0, size)
        return genome.decoded[start:end]

    def _read_genome(self, genome: zarr.Array, start: int, end: int) -> np.ndarray:
        try:
            codes = np.asarray(genome[start:end])
        except Exception as error:
            cause = first_error(error)
            raise UserError(f"{self.path / 'genome'} is damaged ({cause})") from cause
        if codes.max() > dna.N:
            raise UserError(f"{self.path / 'genome'}: a chunk in {start}-{end} is missing")
        return codes

    def _describe_window(self, row: int) -> str:
        return f"{self._targets.file_of(row)}: row {row} ({self.place(row)})"

    def place(self, row: int) -> str:
        """Say where the target of a row lies: contig:start-end, 0-based half-open."""
        windows = self.windows
        return f"{windows.chrom[row]}:{windows.start[row]}-{windows.end[row]}"

    def _open_genome(self) -> _OpenGenome:
        # zarr's event loop thread does not survive a fork, so a child opens its own.
        if self._genome is None or self._genome.pid != os.getpid():
            decoded = self._genome.decoded if self._genome else None
            array = zarr.open_array(self.path / "genome", mode="r")
            self._genome = _OpenGenome(os.getpid(), array, decoded)
        return self._genome

    def __getstate__(self) -> dict:
        """Leave the open genome and its bases behind when pickled."""
        return self.__dict__ | {"_genome": None}


def _has_nan(values: np.ndarray) -> bool:
    """Whether float16 values hold a NaN; np.isnan takes as long as decompressing them."""
    return bool((values.view(np.uint16) & 0x7FFF).max() > _INFINITY)


class _ContigIndex:
    """Finds the stored piece of a contig that holds an interval."""

    def __init__(self, contigs: list[Contig]):
        self._pieces: dict[str, list[Contig]] = {}
        for contig in sorted(contigs, key=lambda contig: contig.start):
            self._pieces.setdefault(contig.name, []).append(contig)

    def find(self, name: str, start: int, end: int) -> Contig:
        pieces = self._pieces.get(name, [])
        following = bisect_right(pieces, start, key=lambda piece: piece.start)
        for piece in pieces[max(following - 1, 0) : following]:
            if end <= piece.start + piece.length:
                return piece
        raise UserError(f"the stored sequence of {name} does not hold {start}-{end}")


def _open_store(path: Path, manifest: Manifest) -> TargetsStore:
    if manifest.storage.format == "webdataset":
        return TarTargets(path, manifest)
    return ZarrTargets(path, manifest)


def _check_files(path: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        fault = file_fault if name in _WITHOUT_CHECKSUMS else size_fault
        if text := fault(path / name, entry):
            raise UserError(f"{path / name} {text}")


def _read_windows(path: Path) -> Windows:
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        chrom, start, end, split = np.array(rows, dtype=str).T
        return Windows(chrom, start.astype(np.int64), end.astype(np.int64), split)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: it must have the columns chrom, start, end, split ({error})"
        ) from error
