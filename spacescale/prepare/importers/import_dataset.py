"""An imported set -> a species dataset: checked record by record, in genome order.

The steps are those of `prepare.stages`, with blocks of records in place of tracks; so an import
that was stopped continues, and any number of workers gives the same bytes.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from spacescale.dataset.folder import refuse_existing
from spacescale.dataset.schema import (
    Contig,
    Missing,
    Report,
    Sources,
    Split,
    TransformInfo,
)
from spacescale.dataset.sequence_splits import sequence_splits
from spacescale.errors import UserError
from spacescale.files import sync, write_json
from spacescale.genome.aliases import aliases_of_names
from spacescale.genome.intervals import (
    Interval,
    from_columns,
    split_hash,
    to_columns,
)
from spacescale.genome.sequence_files import Genome, open_codes, read_genome
from spacescale.genome.track_selection import select_tracks
from spacescale.genome.tracks import Track, read_targets, refuse_opposite_strands
from spacescale.prepare.importers.sequences import (
    ComparedWithGenome,
    PiecedTogether,
    SequenceCounts,
    create_pieces,
    find_pieces,
    sequence_warnings,
)
from spacescale.prepare.importers.source import Block, Geometry, ImportSource
from spacescale.prepare.importers.targets import (
    TargetChecks,
    TargetCounts,
    finished_tracks,
    target_warnings,
)
from spacescale.prepare.importers.windows import read_windows, unplaced_windows
from spacescale.prepare.jobs import Notify, local_workers, run_rest
from spacescale.prepare.options import OutputOptions
from spacescale.prepare.scratch import Scratch
from spacescale.prepare.sequence import place_contigs, write_sequence
from spacescale.prepare.shards import Shards, complete, publish, refuse_emptied_splits
from spacescale.prepare.track_reader import source_of
from spacescale.prepare.work_folder import WorkFolder, locked_exclusively, request_of
from spacescale.splits.beds import bed_contigs, name_folds
from spacescale.splits.leakage import split_overlaps

IMPORTED = TransformInfo(name="imported", version=1)


@dataclass(frozen=True, kw_only=True)
class ImportOptions(OutputOptions):
    """How to import a training set. Lengths in bp.

    windows: BED of the records; None if their places are not known, which rules out a genome,
    other contexts and leakage reports.
    fasta: genome to compare every sequence with and to store; None to store what the records hold.
    seq_length: input of the dataset, default that of the records; longer ones need the genome.
    missing: whether NaN in the set is an error (zero) or 'not measured' (nan).
    valid_folds, test_folds: turn a set of folds into train, valid and test.
    """

    windows: Path | None
    fasta: Path | None = None
    seq_length: int | None = None
    valid_folds: tuple[str, ...] = ()
    test_folds: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.fasta and self.windows is None:
            raise UserError("--fasta needs --windows BED, which says where the records lie")
        if twice := set(self.valid_folds) & set(self.test_folds):
            raise UserError(f"fold {min(twice)} is in valid_folds and in test_folds")
        if self.aliases and not self.fasta:
            raise UserError("--aliases translates to names of the genome: give --fasta, too")


def import_dataset(
    options: ImportOptions, source: ImportSource, notify: Notify = lambda _: None
) -> Path:
    """Write the dataset `options.out / options.species` and return that path.

    notify: called with a line when a stopped import is continued.
    The folder appears only when complete. Bad input leaves nothing behind. An interruption leaves
    `.NAME.partial`, from which the same call continues. Needs scratch space for the targets as raw
    float16. Raises UserError naming file, record and cure for whatever does not fit together, and
    when another run is writing the same dataset.
    """
    refuse_existing(options.target, options.overwrite)
    tracks, columns = _tracks(options, source)
    if not sum(source.num_records.values()):
        raise UserError("the set holds no record")
    geometry = _stored_geometry(options, source.geometry)
    work, request = WorkFolder.of(options.target), _request(options, source)
    # The work folder inside: a worker that died is no error in the input, so it stays.
    with (
        local_workers(options.workers) as pool,
        locked_exclusively(work, request, options.overwrite),
    ):
        if not work.plan.is_file():
            _prepare(work, options, source, tracks, columns, pool)
        plan = _ImportPlan.load(work)
        numbers = range(len(plan.blocks))
        jobs = [(work, source, number) for number in numbers if not work.part(number).is_file()]
        run_rest(pool, _read_block, jobs, len(numbers), "blocks are read", notify)
        shards = Shards(work, plan.scratch(work), options.storage, _kept_rows(work, plan))
        shards.write(range(shards.number), pool, notify)
        _finish(options, source, geometry, plan, shards)
        publish(work, _request(options, source), options.target)
    return options.target


def _request(options: ImportOptions, source: ImportSource) -> dict[str, str]:
    """Return what decides the bytes of the dataset, see `request_of`."""
    settings = vars(options) | {"kind": type(source).__name__, "records": source.geometry}
    settings["records of each split"] = dict(source.num_records)
    # By number: which file belongs to which split decides the bytes, too.
    files = {f"imported file {n}": path for n, path in enumerate(source.files, start=1)}
    return request_of(settings | files, [])


@dataclass(frozen=True)
class _ImportPlan:
    """What the work folder's plan holds.

    columns: those of the records that are the tracks, None for all. windows: in genome order.
    rows: of each block, the windows of its records, int [records]. contigs: what `genome` will
    hold. lengths, num_ambiguous: of the genome's contigs.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, ser_json_inf_nan="constants")

    geometry: Geometry
    missing: Missing
    tracks: list[Track]
    columns: list[int] | None
    windows: list[Interval]
    blocks: list[Block]
    rows: list[np.ndarray]
    contigs: list[Contig]
    aliases: dict[str, str]
    fasta: Path | None
    lengths: dict[str, int]
    num_ambiguous: int

    def save(self, work: WorkFolder) -> None:
        """Mark the first step as done."""
        arrays = to_columns(self.windows) | {"rows": np.concatenate(self.rows)}
        work.save_plan(_IMPORT_PLAN.dump_json(replace(self, windows=[], rows=[])), arrays)

    @classmethod
    def load(cls, work: WorkFolder) -> "_ImportPlan":
        """Return what was saved."""
        text, arrays = work.load_plan()
        plan = _IMPORT_PLAN.validate_json(text)
        ends = np.cumsum([block.count for block in plan.blocks])
        rows = np.split(arrays["rows"], ends[:-1])
        return replace(plan, windows=from_columns(arrays), rows=rows)

    def scratch(self, work: WorkFolder) -> Scratch:
        """The targets, written by window in the order of reading."""
        num_bins = self.geometry.target_length
        return Scratch(work.scratch, "window", len(self.windows), num_bins, len(self.tracks))

    def sequences(self, work: WorkFolder) -> ComparedWithGenome | PiecedTogether:
        """What takes the bases of records."""
        margin = self.geometry.margin
        if self.fasta is None:
            return PiecedTogether(work.codes, self.contigs, margin)
        return ComparedWithGenome(self.genome(work), margin)

    def genome(self, work: WorkFolder) -> Genome:
        """The genome that the records are compared with."""
        assert self.fasta is not None
        return open_codes(self.fasta, work.codes, self.lengths, self.num_ambiguous, work.case)

    def bases(self, work: WorkFolder) -> Iterator[np.ndarray]:
        """Yield the base codes of each of `contigs`, uint8, once every block is read."""
        if self.fasta is not None:
            genome = self.genome(work)
            yield from (genome.contigs[contig.name] for contig in self.contigs)
            return
        with work.codes.open("rb") as file:
            for piece in self.contigs:
                yield np.frombuffer(file.read(piece.length), dtype=np.uint8)


_IMPORT_PLAN = TypeAdapter(_ImportPlan)


def _tracks(options: ImportOptions, source: ImportSource) -> tuple[list[Track], list[int] | None]:
    """Return the tracks to take, and their columns in the records where it is not all."""
    listed = read_targets(options.targets)
    if len(listed) != source.num_tracks:
        raise UserError(
            f"{options.targets} lists {len(listed)} tracks, but the set has {source.num_tracks}"
        )
    if not options.tracks:
        return listed, None
    column_of = {track.index: column for column, track in enumerate(listed)}
    tracks = select_tracks(listed, options.tracks, options.targets)
    return tracks, [column_of[track.index] for track in tracks]


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
    if genome is None or options.windows is None:
        return {}
    return aliases_of_names(options.aliases, bed_contigs(options.windows), genome.lengths)


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


def _prepare(
    work: WorkFolder,
    options: ImportOptions,
    source: ImportSource,
    tracks: list[Track],
    columns: list[int] | None,
    executor: Executor | None,
) -> None:
    """Find out where every record belongs; needs a look at every file."""
    num_windows = sum(source.num_records.values())
    num_bins, margin = source.geometry.target_length, source.geometry.margin
    scratch = Scratch(work.scratch, "window", num_windows, num_bins, len(tracks))
    scratch.refuse_full_disk()
    genome = read_genome(options.fasta, work.codes, work.case) if options.fasta else None
    aliases = _aliases(options, genome)
    windows = _windows(options, source, genome, aliases)
    order = _genome_order(windows, genome)
    in_order = [windows[position] for position in order]
    blocks = source.blocks(executor)
    ends = np.cumsum([block.count for block in blocks])
    work.begin()
    scratch.create()
    if genome is None:
        contigs = find_pieces(in_order, margin)
        create_pieces(work.codes, contigs)
    else:
        contigs = place_contigs(genome.lengths, dict.fromkeys(i.chrom for i in in_order))
    plan = _ImportPlan(
        geometry=source.geometry,
        missing=options.missing,
        tracks=tracks,
        columns=columns,
        windows=in_order,
        blocks=blocks,
        rows=np.split(np.argsort(order), ends[:-1]),
        contigs=contigs,
        aliases=aliases,
        fasta=options.fasta,
        lengths=genome.lengths if genome else {},
        num_ambiguous=genome.num_ambiguous if genome else 0,
    )
    plan.save(work)


def _read_block(work: WorkFolder, source: ImportSource, number: int) -> None:
    """Check the records of a block and put them down, then mark the block."""
    plan = _ImportPlan.load(work)
    columns = slice(None) if plan.columns is None else plan.columns
    targets = TargetChecks(plan.tracks, plan.missing)
    sequences = plan.sequences(work)
    has_train = any(window.split == "train" for window in plan.windows)

    def checked() -> Iterator[tuple[int, np.ndarray]]:
        records = source.records(plan.blocks[number])
        for row, record in zip(plan.rows[number].tolist(), records, strict=True):
            window = plan.windows[row]
            sequences.add(record.place, window, record.codes)
            in_mean = window.split == "train" or not has_train
            yield row, targets.add(record.place, record.targets[:, columns], in_mean)

    plan.scratch(work).write(checked())
    sync(work.codes)
    told = {"targets": targets.counts.to_json(), "sequences": asdict(sequences.counts)}
    write_json(work.part(number), told)


def _kept_rows(work: WorkFolder, plan: _ImportPlan) -> np.ndarray:
    """Return the windows in which some track was measured, int, ascending."""
    if plan.missing == "zero":
        return np.arange(len(plan.windows))
    rows = np.flatnonzero(plan.scratch(work).measured())
    refuse_emptied_splits(plan.windows, rows)
    return rows


def _finish(
    options: ImportOptions,
    source: ImportSource,
    geometry: Geometry,
    plan: _ImportPlan,
    shards: Shards,
) -> None:
    work = shards.work
    told = [json.loads(work.part(number).read_bytes()) for number in range(len(plan.blocks))]
    # In the order of reading, whatever the order in which blocks were read.
    counts = TargetCounts.added([TargetCounts.from_json(block["targets"]) for block in told])
    sequences = [SequenceCounts(**block["sequences"]) for block in told]
    num_bins = shards.rows.size * geometry.target_length
    tracks = finished_tracks(plan.tracks, counts, num_bins, plan.missing)
    refuse_opposite_strands(tracks, [track.mean for track in tracks])
    windows = [plan.windows[row] for row in shards.rows.tolist()]
    for name in ("genome", "repeats"):  # of a run stopped just here
        shutil.rmtree(work.dataset / name, ignore_errors=True)
    genome = plan.genome(work) if plan.fasta else None
    stretches = sequence_splits(plan.contigs, windows)
    stored = write_sequence(work.dataset, plan.contigs, plan.bases(work), stretches, genome)
    complete(
        shards,
        options,
        windows,
        tracks,
        seq_length=geometry.seq_length,
        bin_size=geometry.bin_size,
        target_length=geometry.target_length,
        stride=None,
        transform=IMPORTED,
        split=_split(options, windows),
        contigs=plan.contigs,
        aliases=plan.aliases,
        sequence=stored.info,
        sources=Sources(
            fasta=source_of(options.fasta) if options.fasta else None,
            targets=source_of(options.targets),
            split_bed=source_of(options.windows) if options.windows else None,
            imported=[source_of(path) for path in source.files],
        ),
        report=Report(
            split_overlaps=split_overlaps(windows, geometry.seq_length),
            dropped_unmeasured=len(plan.windows) - len(windows),
            ambiguous_bases=plan.num_ambiguous,
            saturated_bins={t.identifier: t.saturated for t in tracks if t.saturated},
            warnings=target_warnings(plan.tracks, counts)
            + sequence_warnings(sequences, options.fasta)
            + stored.warnings,
        ),
    )


def _split(options: ImportOptions, windows: Sequence[Interval]) -> Split:
    folds = {"valid_folds": options.valid_folds, "test_folds": options.test_folds}
    settings = {name: list(names) for name, names in folds.items() if names}
    return Split(method="imported", settings=dict(settings), hash=split_hash(windows))
