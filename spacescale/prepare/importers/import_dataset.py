"""An imported set -> a species dataset: checked record by record, in genome order."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spacescale.arguments import given_path
from spacescale.dataset.folder import refuse_existing
from spacescale.dataset.schema import (
    Codec,
    Manifest,
    Missing,
    Report,
    Sources,
    Split,
    Storage,
    TransformInfo,
)
from spacescale.errors import UserError
from spacescale.files import failed_writes_explained, made_parents
from spacescale.genome.aliases import match_styles, read_aliases
from spacescale.genome.intervals import Interval, split_hash, windows_per_split
from spacescale.genome.sequence_files import Genome, read_genome
from spacescale.genome.track_selection import select_tracks
from spacescale.genome.tracks import Track, read_targets, refuse_opposite_strands
from spacescale.prepare.importers.sequences import ComparedWithGenome, PiecedTogether, Sequences
from spacescale.prepare.importers.source import Geometry, ImportSource
from spacescale.prepare.importers.staging import TargetStaging
from spacescale.prepare.importers.windows import read_windows, unplaced_windows
from spacescale.prepare.options import check_species_name
from spacescale.prepare.summary import describe_size
from spacescale.prepare.track_reader import source_of
from spacescale.prepare.writer import created_with, write_dataset
from spacescale.splits.beds import bed_contigs, name_folds
from spacescale.splits.leakage import split_overlaps

IMPORTED = TransformInfo(name="imported", version=1)


@dataclass(frozen=True)
class ImportOptions:
    """How to import a training set. Lengths in bp.

    species: name of the dataset's folder under `out`. targets: the set's targets table.
    tracks: identifiers or indices of the tracks to take, none meaning all.
    windows: BED of the records; None if their places are not known, which rules out a genome,
    other contexts and leakage reports.
    fasta: genome to compare every sequence with and to store; None to store what the records hold.
    seq_length: input of the dataset, default that of the records; longer ones need the genome.
    aliases: None, 'auto' or a file, as for shard.py: names in the BED to names in the genome.
    missing: whether NaN in the set is an error (zero) or 'not measured' (nan).
    valid_folds, test_folds: turn a set of folds into train, valid and test.
    codec, windows_per_shard: how the targets are stored.
    """

    species: str
    targets: Path
    out: Path
    windows: Path | None
    tracks: tuple[str, ...] = ()
    fasta: Path | None = None
    seq_length: int | None = None
    aliases: str | Path | None = None
    missing: Missing = "zero"
    valid_folds: tuple[str, ...] = ()
    test_folds: tuple[str, ...] = ()
    codec: Codec = "pcodec"
    windows_per_shard: int = 16
    overwrite: bool = False

    def __post_init__(self):
        check_species_name(self.species)
        if self.windows_per_shard < 1:
            raise UserError(f"windows_per_shard {self.windows_per_shard} must be at least 1")
        if self.fasta and self.windows is None:
            raise UserError("--fasta needs --windows BED, which says where the records lie")
        if twice := set(self.valid_folds) & set(self.test_folds):
            raise UserError(f"fold {min(twice)} is in valid_folds and in test_folds")
        if self.aliases and not self.fasta:
            raise UserError("--aliases translates to names of the genome: give --fasta, too")


def import_dataset(options: ImportOptions, source: ImportSource) -> Path:
    """Write the dataset `options.out / options.species` and return that path.

    The folder appears when it is complete; an error or an interruption leaves nothing behind.
    Needs scratch space for the targets as raw float16. Raises UserError naming file, record and
    cure for whatever does not fit together.
    """
    target = options.out / options.species
    refuse_existing(target, options.overwrite)
    tracks, columns = _tracks(options, source)
    if not sum(source.num_records.values()):
        raise UserError("the set holds no record")
    geometry = _stored_geometry(options, source.geometry)
    with _scratch_folder(target) as scratch:
        _refuse_full_disk(options, source, len(tracks))
        genome = read_genome(options.fasta, scratch / "genome") if options.fasta else None
        aliases = _aliases(options, genome)
        windows = _windows(options, source, genome, aliases)
        staged = _stage(scratch, options, source, genome, tracks, columns, windows)
        return _write(target, options, source, geometry, genome, aliases, staged)


@dataclass(frozen=True)
class _Staged:
    """What reading all records gave; windows in genome order."""

    targets: TargetStaging
    sequences: Sequences
    windows: list[Interval]


def _tracks(
    options: ImportOptions, source: ImportSource
) -> tuple[list[Track], Sequence[int] | slice]:
    """Return the tracks to take, and their columns in the records."""
    listed = read_targets(options.targets)
    if len(listed) != source.num_tracks:
        raise UserError(
            f"{options.targets} lists {len(listed)} tracks, but the set has {source.num_tracks}"
        )
    if not options.tracks:
        return listed, slice(None)
    column_of = {track.index: column for column, track in enumerate(listed)}
    tracks = select_tracks(listed, options.tracks, options.targets)
    return tracks, [column_of[track.index] for track in tracks]


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` that vanishes at the end."""
    prefix = f".{target.name}.import-"
    with (
        made_parents(target),
        failed_writes_explained(target.parent),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as scratch,
    ):
        yield Path(scratch)


def _stored_geometry(options: ImportOptions, geometry: Geometry) -> Geometry:
    if options.seq_length is None:
        return geometry
    if options.seq_length > geometry.seq_length and not options.fasta:
        raise UserError(
            f"--seq-length {options.seq_length}: the records hold {geometry.seq_length} bp; more "
            "needs the genome: add --fasta"
        )
    stored = Geometry(options.seq_length, geometry.bin_size, geometry.target_length)
    stored.check("--seq-length")
    return stored


def _aliases(options: ImportOptions, genome: Genome | None) -> dict[str, str]:
    if genome is None or options.windows is None or options.aliases is None:
        return {}
    if str(options.aliases) == "auto":
        return match_styles(bed_contigs(options.windows), genome.lengths)
    aliases = read_aliases(given_path(str(options.aliases)), genome.lengths)
    # A public table lists thousands of names.
    return {name: aliases[name] for name in bed_contigs(options.windows) if name in aliases}


def _windows(
    options: ImportOptions,
    source: ImportSource,
    genome: Genome | None,
    aliases: Mapping[str, str],
) -> list[Interval]:
    """Return the target interval of every record in the order of reading."""
    if options.windows is None:
        windows = unplaced_windows(source.num_records, source.geometry)
    else:
        lengths = genome.lengths if genome else None
        windows = read_windows(
            options.windows, source.num_records, source.geometry, lengths, aliases
        )
    place = options.windows or "the set"
    return name_folds(place, windows, options.valid_folds, options.test_folds)


def _genome_order(windows: Sequence[Interval], genome: Genome | None) -> list[int]:
    """Return the positions of the windows in the order to store them."""
    chroms = {window.chrom for window in windows}
    names = list(genome.lengths) if genome else sorted(sorted(chroms), key=_natural)
    rank = {name: position for position, name in enumerate(names)}
    return sorted(range(len(windows)), key=lambda i: (rank[windows[i].chrom], windows[i].start))


def _natural(name: str) -> list[str | int]:
    """Sort key that puts chr2 before chr10: letters and numbers in turn."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _refuse_full_disk(options: ImportOptions, source: ImportSource, num_tracks: int) -> None:
    num_windows = sum(source.num_records.values())
    scratch = num_windows * source.geometry.target_length * num_tracks * 2
    free = shutil.disk_usage(options.out).free
    if free < 2 * scratch:
        raise UserError(
            f"{options.out} has {describe_size(free)} free; scratch and result together may need "
            f"{describe_size(2 * scratch)}"
        )


def _stage(
    scratch: Path,
    options: ImportOptions,
    source: ImportSource,
    genome: Genome | None,
    tracks: Sequence[Track],
    columns: Sequence[int] | slice,
    windows: Sequence[Interval],
) -> _Staged:
    """Read every record once; windows: those of the records, in the order of reading."""
    order = _genome_order(windows, genome)
    in_order = [windows[position] for position in order]
    row_of = {position: row for row, position in enumerate(order)}
    margin, num_bins = source.geometry.margin, source.geometry.target_length
    targets = TargetStaging(scratch / "targets", tracks, len(windows), num_bins, options.missing)
    sequences = (
        ComparedWithGenome(genome, margin)
        if genome
        else PiecedTogether(scratch / "bases", in_order, margin)
    )
    has_train = any(window.split == "train" for window in windows)
    records = (record for split in source.num_records for record in source.records(split))
    progress = tqdm(records, desc="records", total=len(windows), unit="window", disable=None)
    for position, record in enumerate(progress):
        window = windows[position]
        in_mean = window.split == "train" or not has_train
        sequences.add(record.place, window, record.codes)
        targets.add(row_of[position], record.place, record.targets[:, columns], in_mean)
    kept = targets.measured_rows().tolist()
    if not kept:
        raise UserError("nothing was measured in any window of the set")
    return _Staged(targets, sequences, [in_order[row] for row in kept])


def _write(
    target: Path,
    options: ImportOptions,
    source: ImportSource,
    geometry: Geometry,
    genome: Genome | None,
    aliases: Mapping[str, str],
    staged: _Staged,
) -> Path:
    tracks = staged.targets.finished_tracks()
    refuse_opposite_strands(tracks, [track.mean for track in tracks])
    counts = windows_per_split(staged.windows)
    manifest = Manifest(
        species=options.species,
        seq_length=geometry.seq_length,
        bin_size=geometry.bin_size,
        target_length=geometry.target_length,
        stride=None,
        transform=IMPORTED,
        missing=options.missing,
        storage=Storage(codec=options.codec, windows_per_shard=options.windows_per_shard),
        split=_split(options, staged.windows),
        num_windows=counts,
        num_tracks=len(tracks),
        mean_over="train" if "train" in counts else "all",
        contigs=staged.sequences.contigs(),
        aliases=dict(aliases),
        sources=Sources(
            fasta=source_of(options.fasta) if options.fasta else None,
            targets=source_of(options.targets),
            split_bed=source_of(options.windows) if options.windows else None,
            imported=[source_of(path) for path in source.files],
        ),
        report=Report(
            split_overlaps=split_overlaps(staged.windows, geometry.seq_length),
            dropped_unmeasured=staged.targets.num_unmeasured(),
            ambiguous_bases=genome.num_ambiguous if genome else 0,
            saturated_bins={t.identifier: t.saturated for t in tracks if t.saturated},
            warnings=staged.targets.warnings() + staged.sequences.warnings(),
        ),
        files={},
        created_with=created_with(),
    )
    return write_dataset(
        target,
        manifest,
        staged.sequences.codes(),
        staged.windows,
        tracks,
        staged.targets.targets(),
        options.overwrite,
    )


def _split(options: ImportOptions, windows: Sequence[Interval]) -> Split:
    folds = {"valid_folds": options.valid_folds, "test_folds": options.test_folds}
    settings = {name: list(names) for name, names in folds.items() if names}
    return Split(method="imported", settings=dict(settings), hash=split_hash(windows))
