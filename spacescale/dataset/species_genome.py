"""Read the sequence of a species dataset, with or without tracks: bases, letter case, splits."""

import os
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import zarr

from spacescale.dataset.codecs import first_error
from spacescale.dataset.folder import file_fault, size_fault, unexpected_files
from spacescale.dataset.interval_table import IntervalTable
from spacescale.dataset.manifest import read_manifest
from spacescale.dataset.packed_bases import PackedBases
from spacescale.dataset.schema import EXCLUDED, MANIFEST, Contig, GenomeManifest
from spacescale.dataset.sequence_splits import bases_by_split, sequence_hash, sequence_splits
from spacescale.dataset.tar_targets import INDEX, SHARDS
from spacescale.errors import UserError
from spacescale.files import sha256
from spacescale.genome import dna
from spacescale.genome.aliases import shorten
from spacescale.genome.stretches import Stretches

# A genome up to this many bp is decoded once and kept, at two bits a base; from a larger one each
# read takes its own chunks.
_KEEP_GENOME_BP = 256 * 2**20
_WITHOUT_CHECKSUMS = {
    "windows.bed", "tracks.tsv", "sequence.bed", "zarr.json", "genome/zarr.json",
    "repeats/zarr.json", "targets/zarr.json", f"{SHARDS}/{INDEX}",
}  # fmt: skip


@dataclass
class _OpenArrays:
    """What one process has open. bases, repeats: of the whole genome, once they were needed."""

    pid: int
    genome: zarr.Array
    bases: PackedBases | None = None
    repeats: np.ndarray | None = None


def same_splits(one: str, other: str) -> bool:
    """Whether two `SpeciesGenome.splits_identity` are of the same splits: of windows alone where
    either tells of no more.
    """
    if "+" in one and "+" in other:
        return one == other
    return one.partition("+")[0] == other.partition("+")[0]


class SpeciesGenome:
    """The sequence of a species dataset on disk. Cheap to open and to pickle.

    Files are opened once per process.

    path, name, manifest, manifest_hash (SHA-256 of manifest.json: the identity of the data).
    Coordinates are 0-based half-open, in bp, from each contig's own base 0 on.
    """

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the dataset folder, when every file is there with the size it should have.

        Of the tables the content is compared, too: they hold no checksums as bases and targets do.
        Raises UserError when the folder is no dataset, of another format version, incomplete
        or damaged. `verify` checks the contents too.
        """
        path = Path(path)
        manifest, manifest_hash = read_manifest(path)
        check_files(path, manifest)
        return cls(path, manifest, manifest_hash)

    def __init__(self, path: Path, manifest: GenomeManifest, manifest_hash: str):
        self.path = path
        self.manifest = manifest
        self.manifest_hash = manifest_hash
        self.name = manifest.species
        self._contigs = _ContigIndex(manifest.contigs)
        self._arrays: _OpenArrays | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {len(self.manifest.contigs)} contigs)"

    # --- which split may use which bases ---

    @cached_property
    def sequence_table(self) -> IntervalTable:
        """Every stored base, in genome order, under the split that may use it; EXCLUDED: none may.

        Of a dataset made before sequence.bed was written, a split may use the bases of its targets.
        """
        if "sequence.bed" in self.manifest.files:
            return IntervalTable.read(self.path / "sequence.bed")
        targets = IntervalTable.read(self.path / "windows.bed").intervals()
        return IntervalTable.of(sequence_splits(self.manifest.contigs, targets))

    def bases_of_splits(self) -> dict[str, int]:
        """Return how many bases each split may use, EXCLUDED last: those that none may."""
        return bases_by_split(self.sequence_table.intervals())

    def stretches(self, split: str) -> IntervalTable:
        """Return the stretches whose sequence a split may use, in genome order.

        All else is out of bounds for training, for a vocabulary and for scores of that split.
        Raises UserError naming the splits there are.
        """
        found = self.sequence_table.of_split(split)
        if split == EXCLUDED or not len(found):
            there = [name for name in self.bases_of_splits() if name != EXCLUDED]
            raise UserError(
                f"{self.path} has no sequence of a split {split!r}; it has {', '.join(there)}"
            )
        return found

    def splits_identity(self, of_bases: bool) -> str:
        """Hash of its windows' splits; of_bases: and, after a +, that of the splits of all bases.

        Other contigs may train on bases while windows stay the same.
        """
        windows, sequence = self.manifest.split.hash, self.manifest.sequence
        if not of_bases:
            return windows
        # Data of format 2 do not keep the hash.
        bases = sequence.hash if sequence else sequence_hash(self.sequence_table.intervals())
        return f"{windows}+{bases}"

    def in_split(self, split: str, chrom: str, start: int, end: int) -> np.ndarray:
        """Return whether a split may use each base, bool [end − start]; not past a contig's ends.

        For windows that reach beyond their own split, as the inputs of targets may.
        """
        mine = self._stretches_of_contigs.get((split, chrom))
        return mine.mask(start, end) if mine else np.zeros(end - start, dtype=bool)

    @cached_property
    def _stretches_of_contigs(self) -> dict[tuple[str, str], Stretches]:
        rows: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for stretch in self.sequence_table.intervals():
            if stretch.split != EXCLUDED:
                key = stretch.split, stretch.chrom
                rows.setdefault(key, []).append((stretch.start, stretch.end))
        return {
            key: Stretches.covered_by(*np.array(ends, dtype=np.int64).T)
            for key, ends in rows.items()
        }

    # --- bases ---

    def codes(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Return the codes of bases that are stored, uint8 [end − start], A0 C1 G2 T3 N4.

        Raises UserError where they are not, and when the genome is damaged.
        """
        return self.bases(self._contigs.find(chrom, start, end), start, end)

    def bases(self, contig: Contig, start: int, end: int) -> np.ndarray:
        """Return the codes of a stretch of a stored contig, uint8 [end − start].

        Raises UserError when the genome is damaged.
        """
        first = _offset_of(contig, start, end)
        return self._bases(first, first + end - start)

    def _bases(self, start: int, end: int) -> np.ndarray:
        arrays = self._open_arrays()
        size = arrays.genome.shape[0]
        if arrays.bases is None and size <= _KEEP_GENOME_BP:
            arrays.bases = PackedBases.of(self._read_genome(arrays.genome, 0, size))
        if arrays.bases is not None:
            return arrays.bases.codes(start, end)
        return self._read_genome(arrays.genome, start, end)

    def _read_genome(self, genome: zarr.Array, start: int, end: int) -> np.ndarray:
        codes = self._read(genome, "genome", start, end)
        if codes.size and codes.max() > dna.N:
            raise UserError(f"{self.path / 'genome'}: a chunk in {start}-{end} is missing")
        return codes

    def _read(self, array: zarr.Array, name: str, start: int, end: int) -> np.ndarray:
        try:
            return np.asarray(array[start:end])
        except Exception as error:
            cause = first_error(error)
            raise UserError(f"{self.path / name} is damaged ({cause})") from cause

    # --- letter case ---

    @property
    def has_repeats(self) -> bool:
        """Whether the dataset tells repeats, which its FASTA had in lower case."""
        return self.manifest.sequence is not None and self.manifest.sequence.lower_case is not None

    def repeats(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Return which bases are repeats, bool [end − start]; none where it is not told.

        Raises UserError as `codes`.
        """
        first = _offset_of(self._contigs.find(chrom, start, end), start, end)
        return self.repeats_at(first, first + end - start)

    def repeats_at(self, first: int, last: int) -> np.ndarray:
        """Return `repeats` between two offsets of `genome`, bool [last − first]."""
        if not self.has_repeats:
            return np.zeros(last - first, dtype=bool)
        first_byte = first // 8
        bits = np.unpackbits(self._repeat_bits(first_byte, -(-last // 8)))
        return bits[first - 8 * first_byte : last - 8 * first_byte].view(bool)

    def _repeat_bits(self, first: int, last: int) -> np.ndarray:
        """Return bytes of `repeats`, each of eight bases."""
        arrays = self._open_arrays()
        if arrays.repeats is not None:
            return arrays.repeats[first:last]
        stored = zarr.open_array(self.path / "repeats", mode="r")
        if arrays.genome.shape[0] > _KEEP_GENOME_BP:
            return self._read(stored, "repeats", first, last)
        bits = self._read(stored, "repeats", 0, stored.shape[0])
        # A chunk that is missing would pass for bases without repeats.
        assert self.manifest.sequence
        if np.unpackbits(bits).sum() != self.manifest.sequence.lower_case:
            raise UserError(f"{self.path / 'repeats'} is damaged: a chunk is missing")
        arrays.repeats = bits
        return bits[first:last]

    # --- files ---

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

    def _open_arrays(self) -> _OpenArrays:
        # zarr's event loop thread does not survive a fork, so a child opens its own.
        known = self._arrays
        if known is None or known.pid != os.getpid():
            genome = zarr.open_array(self.path / "genome", mode="r")
            opened = _OpenArrays(os.getpid(), genome)
            if known:
                opened.bases, opened.repeats = known.bases, known.repeats
            self._arrays = known = opened
        return known

    def __getstate__(self) -> dict:
        """Leave the open genome and its bases behind when pickled."""
        return self.__dict__ | {"_arrays": None}


def _offset_of(contig: Contig, start: int, end: int) -> int:
    """Return where in `genome` the first base of a stretch of a contig lies."""
    assert contig.start <= start <= end <= contig.start + contig.length
    return contig.offset - contig.start + start


class _ContigIndex:
    """Finds the stored piece of a contig that holds an interval."""

    def __init__(self, contigs: list[Contig]):
        self._pieces: dict[str, list[Contig]] = {}
        for contig in sorted(contigs, key=lambda contig: contig.start):
            self._pieces.setdefault(contig.name, []).append(contig)

    def find(self, name: str, start: int, end: int) -> Contig:
        """Return the piece; UserError where none holds all of the interval."""
        pieces = self._pieces.get(name, [])
        following = bisect_right(pieces, start, key=lambda piece: piece.start)
        for piece in pieces[max(following - 1, 0) : following]:
            if end <= piece.start + piece.length:
                return piece
        raise UserError(f"the stored sequence of {name} does not hold {start}-{end}")


def check_files(path: Path, manifest: GenomeManifest) -> None:
    """Raise UserError where a file is missing or of another size, or a table of another content."""
    for name, entry in manifest.files.items():
        fault = file_fault if name in _WITHOUT_CHECKSUMS else size_fault
        if text := fault(path / name, entry):
            raise UserError(f"{path / name} {text}")
