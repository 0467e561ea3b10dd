"""Read a species dataset: sequence and targets by window, with nothing missing unnoticed."""

import hashlib
import json
import os
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import zarr
from pydantic import ValidationError

from spacescale.data.checksums import list_files, sha256
from spacescale.data.schema import FORMAT, FORMAT_VERSION, MANIFEST, Contig, Manifest
from spacescale.data.zarr_targets import ZarrTargets
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.tracks import Track, read_targets

# A genome up to this many bp is decoded once and kept; from a larger one each read takes its
# own chunks.
_KEEP_GENOME_BP = 256 * 2**20
_BED_COLUMNS = 4


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
        """Open the dataset folder and check that every file is there with the size it should have.

        Raises UserError when the folder is no dataset, of another format version, incomplete
        or damaged. `verify` checks the contents too.
        """
        path = Path(path)
        text = _read_manifest(path)
        manifest = _parse_manifest(path, text)
        _check_sizes(path, manifest)
        return cls(path, manifest, hashlib.sha256(text).hexdigest())

    def __init__(self, path: Path, manifest: Manifest, manifest_hash: str):
        self.path = path
        self.manifest = manifest
        self.manifest_hash = manifest_hash
        self.name = manifest.species
        self.seq_length = manifest.seq_length
        self.bin_size = manifest.bin_size
        self.target_length = manifest.target_length
        self.tracks: list[Track] = read_targets(path / "tracks.tsv")
        self.windows = _read_windows(path / "windows.bed")
        self._contigs = _ContigIndex(manifest.contigs)
        self._targets: TargetsStore = ZarrTargets(path)
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
        contig = self._contigs.find(
            str(self.windows.chrom[row]), int(self.windows.start[row]), int(self.windows.end[row])
        )
        start = int(self.windows.start[row]) - margin // 2 + shift - contig.start
        inside = slice(max(start, 0), max(min(start + length, contig.length), 0))
        self._refuse_unknown_context(contig, length)
        codes = np.full(length, dna.N, dtype=np.uint8)
        if inside.start < inside.stop:
            found = self._bases(contig.offset + inside.start, contig.offset + inside.stop)
            codes[inside.start - start : inside.stop - start] = found
        return codes

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
            raise UserError(f"{self._place(row)} is damaged ({error})") from error
        unmeasured = np.isnan(values)
        if unmeasured.all() or (self.manifest.missing == "zero" and unmeasured.any()):
            raise UserError(f"{self._place(row)} is missing")
        return values

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest; UserError lists what differs."""
        found = list_files(self.path)
        expected = self.manifest.files
        names = sorted(found.keys() | expected.keys())
        if damaged := [name for name in names if found.get(name) != expected.get(name)]:
            raise UserError(f"{self.path}: differing from the manifest: {', '.join(damaged)}")
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
            raise UserError(f"{self.path / 'genome'} is damaged ({error})") from error
        if codes.max() > dna.N:
            raise UserError(f"{self.path / 'genome'}: a chunk in {start}-{end} is missing")
        return codes

    def _place(self, row: int) -> str:
        windows = self.windows
        window = f"{windows.chrom[row]}:{windows.start[row]}-{windows.end[row]}"
        return f"{self._targets.file_of(row)}: row {row} ({window})"

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


class _ContigIndex:
    """Finds the stored piece of a contig that holds an interval."""

    def __init__(self, contigs: list[Contig]):
        self._pieces: dict[str, list[Contig]] = {}
        for contig in sorted(contigs, key=lambda contig: contig.start):
            self._pieces.setdefault(contig.name, []).append(contig)

    def find(self, name: str, start: int, end: int) -> Contig:
        pieces = self._pieces[name]
        piece = pieces[max(bisect_right(pieces, start, key=lambda piece: piece.start) - 1, 0)]
        if not piece.start <= start <= end <= piece.start + piece.length:
            raise UserError(f"the stored sequence of {name} does not hold {start}-{end}")
        return piece


def _read_manifest(path: Path) -> bytes:
    if not path.is_dir():
        raise UserError(f"no such dataset folder: {path}")
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path} is no species dataset: it has no {MANIFEST}")
    return (path / MANIFEST).read_bytes()


def _parse_manifest(path: Path, text: bytes) -> Manifest:
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path / MANIFEST} is damaged ({error})") from error
    found = plain.get("format_version") if isinstance(plain, dict) else None
    if not isinstance(found, int) or plain.get("format") != FORMAT:
        raise UserError(f"{path / MANIFEST} is not the manifest of a {FORMAT} dataset")
    if found != FORMAT_VERSION:
        cure = (
            "upgrade spacescale"
            if found > FORMAT_VERSION
            else f"migrate with `python data_prep/migrate.py {path}`"
        )
        raise UserError(
            f"{path} has format version {found}, this spacescale reads {FORMAT_VERSION}: {cure}"
        )
    try:
        return Manifest.model_validate(plain)
    except ValidationError as error:
        raise UserError(f"{path / MANIFEST} is damaged ({error})") from error


def _check_sizes(path: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing: the dataset is incomplete, copy it again")
        if (size := file.stat().st_size) != entry.bytes:
            raise UserError(
                f"{file} has {size} bytes, the manifest says {entry.bytes}: copy it again"
            )


def _read_windows(path: Path) -> Windows:
    columns = np.loadtxt(path, dtype=str, delimiter="\t", ndmin=2, comments=None)
    if columns.shape[1] != _BED_COLUMNS:
        raise UserError(f"{path} must have the columns chrom, start, end, split")
    chrom, start, end, split = columns.T
    return Windows(chrom, start.astype(np.int64), end.astype(np.int64), split)
