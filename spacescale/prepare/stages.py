"""Write a species dataset: FASTA + coverage + targets table -> one verified folder.

Four steps, each of which leaves on disk what the next one needs: prepare (check the files, lay
out the windows, write the genome), tracks (coverage -> scratch, track by track), shards (scratch
-> shards of windows), finish (tables, manifest, rename). What a step has done is not done again,
so a killed run continues; nothing in the result depends on that or on the number of workers.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from tqdm import tqdm
from zarr.errors import ContainsArrayError

from spacescale.dataset.folder import file_entry, refuse_existing, size_fault
from spacescale.dataset.schema import (
    Contig,
    FileEntry,
    Manifest,
    Report,
    Sources,
    Split,
    Storage,
    TransformInfo,
)
from spacescale.errors import UserError
from spacescale.files import PARTIAL, put_in_place, sync, write_json, write_text
from spacescale.genome.intervals import Interval, split_hash
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.track_selection import select_tracks
from spacescale.genome.tracks import Track, read_targets, refuse_opposite_strands, write_tracks
from spacescale.genome.transforms import get_transform
from spacescale.prepare.jobs import local_workers, run_jobs
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import DatasetPlan, make_plan
from spacescale.prepare.scratch import Scratch
from spacescale.prepare.track_reader import ReadTrack, read_track, source_of
from spacescale.prepare.work_folder import (
    WorkFolder,
    opened,
    refuse_changed_inputs,
    shared,
    work_folder,
)
from spacescale.prepare.writer import (
    create_group,
    create_targets,
    created_with,
    num_shards,
    rows_of,
    write_genome,
    write_manifest,
    write_targets_shard,
    write_windows,
)

STAGES = ("prepare", "tracks", "shards", "finish")
Tell = Callable[[str], None]


def make_dataset(
    options: DatasetOptions, executor: Executor | None = None, tell: Tell = lambda _: None
) -> Path:
    """Write the dataset `options.out / options.species` and return that path.

    executor: where tracks and shards are worked on; None takes `options.workers` processes of
    this machine. tell: called with a line when a killed run is continued.
    Everything is checked before coverage is read, and the folder appears only when complete. Bad
    input leaves nothing behind. An interruption leaves `.NAME.partial`, from which the same call
    continues. Needs scratch space for the targets as raw float16. Raises UserError for bad input,
    naming file, value and cure, and when another run is writing the same dataset.
    """
    target = _target(options)
    tracks = read_tracks_table(options)
    # The work folder inside: a worker that died is no error in the input, so it stays.
    with _workers(options, executor) as pool, opened(options, tracks, keep=False) as work:
        _prepare(work, options, tracks)
        _read_tracks(work, options, tracks, range(len(tracks)), pool, tell)
        layout = _Layout.of(work, options, len(tracks))
        _write_shards(work, options, layout, range(layout.num_shards), pool, tell)
        _finish(work, options, tracks, layout, target)
    return target


def make_stage(
    options: DatasetOptions,
    stage: str,
    part: int = 1,
    parts: int = 1,
    executor: Executor | None = None,
    tell: Tell = lambda _: None,
) -> Path:
    """Do one of STAGES, as the jobs of a cluster do; the last returns the dataset's path.

    Of the tracks or shards, the `part`-th of `parts` (from 1) is done; different parts may run at
    the same time on different machines. Once it is prepared, the work folder stays. Raises
    UserError as `make_dataset` does, and when an earlier stage is not complete.
    """
    target = _target(options)
    tracks = read_tracks_table(options)
    if stage == "prepare":
        with opened(options, tracks, keep=False) as work:
            _prepare(work, options, tracks)
            return work.path
    _refuse_unprepared(work_folder(options))
    if stage == "finish":
        with opened(options, tracks, keep=True) as work:
            layout = _Layout.of(work, options, len(tracks))
            _finish(work, options, tracks, layout, target)
            return target
    with shared(options, tracks) as work, _workers(options, executor) as pool:
        if stage == "tracks":
            mine = range(part - 1, len(tracks), parts)
            _read_tracks(work, options, tracks, mine, pool, tell)
        else:
            layout = _Layout.of(work, options, len(tracks))
            mine = range(part - 1, layout.num_shards, parts)
            _write_shards(work, options, layout, mine, pool, tell)
        return work.path


def read_tracks_table(options: DatasetOptions) -> list[Track]:
    """Return the tracks of the targets table that `options.tracks` selects."""
    return select_tracks(read_targets(options.targets), options.tracks, options.targets)


def storage_of(options: DatasetOptions) -> Storage:
    """Return how the targets will be stored."""
    return Storage(codec=options.codec, windows_per_shard=options.windows_per_shard)


def place_contigs(lengths: dict[str, int], windows: Iterable[Interval]) -> list[Contig]:
    """Return where in `genome` each contig that carries windows lies."""
    contigs, offset = [], 0
    for name in dict.fromkeys(window.chrom for window in windows):
        contigs.append(Contig(name=name, length=lengths[name], offset=offset))
        offset += lengths[name]
    return contigs


def _target(options: DatasetOptions) -> Path:
    target = options.out / options.species
    refuse_existing(target, options.overwrite)
    return target


def _workers(options: DatasetOptions, executor: Executor | None):
    return nullcontext(executor) if executor else local_workers(options.workers)


# --- prepare ---


@dataclass(frozen=True)
class _Prepared:
    """What plan.json holds. contigs: where those that carry windows lie in `genome`."""

    plan: DatasetPlan
    contigs: list[Contig]


def _prepare(work: WorkFolder, options: DatasetOptions, tracks: Sequence[Track]) -> None:
    if work.plan.is_file():
        return
    codes = work.path / "codes"
    genome = read_genome(options.fasta, codes)
    plan = make_plan(options, genome, tracks)
    _refuse_full_disk(work, options, plan, len(tracks))
    shutil.rmtree(work.dataset, ignore_errors=True)
    work.dataset.mkdir()
    create_group(work.dataset)
    contigs = place_contigs(genome.lengths, plan.windows)
    write_genome(work.dataset, contigs, (genome.contigs[contig.name] for contig in contigs))
    codes.unlink()
    _scratch(work, options, plan, len(tracks)).create()
    for folder in (work.track(0).parent, work.shard(0).parent):
        folder.mkdir(exist_ok=True)
    sync(work.dataset)
    write_json(work.plan, _PREPARED.dump_python(_Prepared(plan, contigs), mode="json"))


def _refuse_full_disk(
    work: WorkFolder, options: DatasetOptions, plan: DatasetPlan, num_tracks: int
) -> None:
    scratch = _scratch(work, options, plan, num_tracks).num_bytes
    free = shutil.disk_usage(work.path).free
    if free < 2 * scratch:
        raise UserError(
            f"{options.out} has {free / 2**30:.1f} GiB free; scratch and result together may need "
            f"{2 * scratch / 2**30:.1f} GiB"
        )


def _scratch(
    work: WorkFolder, options: DatasetOptions, plan: DatasetPlan, num_tracks: int
) -> Scratch:
    return Scratch(work.scratch, num_tracks, len(plan.windows), options.target_length)


_PREPARED = TypeAdapter(_Prepared)


def _load(work: WorkFolder) -> _Prepared:
    return _PREPARED.validate_json(work.plan.read_bytes())


@lru_cache(maxsize=1)
def _plan(work: WorkFolder, changed_at: int) -> DatasetPlan:
    """Load the plan once per process; `changed_at` tells apart the plans of two runs."""
    return _load(work).plan


def _refuse_unprepared(work: WorkFolder) -> None:
    if not work.plan.is_file():
        raise UserError(f"{work.path} is not prepared: run --stage prepare first")


# --- tracks ---


def _read_tracks(
    work: WorkFolder,
    options: DatasetOptions,
    tracks: Sequence[Track],
    mine: Sequence[int],
    executor: Executor | None,
    tell: Tell,
) -> None:
    to_do = [index for index in mine if not work.track(index).is_file()]
    _tell_what_is_done(tell, "tracks are read", len(mine) - len(to_do), len(mine))
    jobs = [(work, options, len(tracks), index, tracks[index]) for index in to_do]
    results = run_jobs(executor, _read_one, jobs)
    _show(results, "tracks", "track", len(mine), len(to_do))


def _read_one(
    work: WorkFolder, options: DatasetOptions, num_tracks: int, index: int, track: Track
) -> None:
    plan = _plan(work, work.plan.stat().st_mtime_ns)
    targets, told = read_track(options, plan, track)
    _scratch(work, options, plan, num_tracks).write(index, targets)
    # Plain JSON has no NaN, which some fields are until the end.
    write_text(work.track(index), json.dumps(_READ_TRACK.dump_python(told)))


_READ_TRACK = TypeAdapter(ReadTrack)


def _told(work: WorkFolder, index: int) -> ReadTrack:
    return _READ_TRACK.validate_python(json.loads(work.track(index).read_text(encoding="utf-8")))


# --- shards ---


@dataclass(frozen=True)
class _Layout:
    """What the dataset will hold, once every track is read.

    Where what was not measured is kept apart from 0, windows that no track measured are left out.
    plan: with the windows that are kept. rows: their rows in the scratch, int [windows].
    """

    plan: DatasetPlan
    contigs: list[Contig]
    scratch: Scratch
    storage: Storage
    rows: np.ndarray

    @classmethod
    def of(cls, work: WorkFolder, options: DatasetOptions, num_tracks: int) -> "_Layout":
        """Read what the earlier steps left; UserError when tracks are not read yet."""
        missing = sum(not work.track(index).is_file() for index in range(num_tracks))
        if missing:
            raise UserError(
                f"{work.path}: {missing} of {num_tracks} tracks are not read; run --stage tracks "
                "again, with every --part"
            )
        prepared = _load(work)
        plan = prepared.plan
        scratch = _scratch(work, options, plan, num_tracks)
        rows = np.arange(scratch.num_windows)
        if options.missing == "nan":
            rows = np.flatnonzero(scratch.measured())
            _refuse_emptied_splits(plan, rows)
            dropped = scratch.num_windows - rows.size
            plan = replace(
                plan,
                windows=[plan.windows[row] for row in rows.tolist()],
                report=plan.report.model_copy(update={"dropped_unmeasured": dropped}),
            )
        return cls(plan, prepared.contigs, scratch, storage_of(options), rows)

    @property
    def num_shards(self) -> int:
        return num_shards(self.rows.size, self.storage)


def _refuse_emptied_splits(plan: DatasetPlan, rows: np.ndarray) -> None:
    kept = Counter(plan.windows[row].split for row in rows.tolist())
    if empty := [split for split in plan.num_windows() if not kept[split]]:
        raise UserError(
            f"split {', '.join(empty)} has no window left: no track has a value in any of them"
        )


def _write_shards(
    work: WorkFolder,
    options: DatasetOptions,
    layout: _Layout,
    mine: Sequence[int],
    executor: Executor | None,
    tell: Tell,
) -> None:
    if not (work.dataset / "targets" / "zarr.json").is_file():
        shape = (layout.rows.size, options.target_length, layout.scratch.num_tracks)
        with suppress(ContainsArrayError):  # another part was faster
            create_targets(work.dataset, shape, layout.storage)
    to_do = [shard for shard in mine if _written_shard(work, shard) is None]
    _tell_what_is_done(tell, "shards are written", len(mine) - len(to_do), len(mine))
    jobs = [
        (work, layout.scratch, shard, layout.rows[rows_of(shard, layout.storage)])
        for shard in to_do
    ]
    results = run_jobs(executor, _write_one, jobs)
    _show(results, "shards", "shard", len(mine), len(to_do))


def _written_shard(work: WorkFolder, shard: int) -> FileEntry | None:
    """Return size and SHA-256 of a shard; None if it is not written, or not as it was marked."""
    if not work.shard(shard).is_file():
        return None
    entry = FileEntry.model_validate_json(work.shard(shard).read_bytes())
    return None if size_fault(work.dataset / _shard_file(shard), entry) else entry


def _shard_file(shard: int) -> str:
    return f"targets/c/{shard}/0/0"


def _write_one(work: WorkFolder, scratch: Scratch, shard: int, rows: np.ndarray) -> None:
    # zarr would read what lies there, and a power failure may have cut it.
    (work.dataset / _shard_file(shard)).unlink(missing_ok=True)
    file = write_targets_shard(work.dataset, shard, scratch.read(rows))
    sync(file)
    write_json(work.shard(shard), file_entry(file).model_dump())


def _show(results: Iterable[None], name: str, unit: str, total: int, to_do: int) -> None:
    """Wait for the jobs, and show how far they are and the time left."""
    with tqdm(desc=name, unit=unit, total=total, initial=total - to_do, disable=None) as progress:
        for _ in results:
            progress.update()


def _tell_what_is_done(tell: Tell, what: str, done: int, total: int) -> None:
    if done:
        tell(f"continuing: {done:,} of {total:,} {what}")


# --- finish ---


def _finish(
    work: WorkFolder, options: DatasetOptions, tracks: list[Track], layout: _Layout, target: Path
) -> None:
    shards = _written_shards(work, layout)
    for leftover in work.dataset.rglob(f"*{PARTIAL}"):
        leftover.unlink()  # of a file that was being written when a run was killed
    read = [_told(work, index) for index in range(layout.scratch.num_tracks)]
    refuse_opposite_strands([r.track for r in read], [r.coverage for r in read])
    write_windows(work.dataset, layout.plan.windows)
    bases = layout.rows.size * options.span
    finished = [replace(result.track, covered=result.covered_bases / bases) for result in read]
    write_tracks(work.dataset / "tracks.tsv", finished)
    write_manifest(work.dataset, _manifest(options, layout, read), shards)
    refuse_changed_inputs(work, options, tracks)
    put_in_place(work.dataset, target)
    work.remove()


def _written_shards(work: WorkFolder, layout: _Layout) -> dict[str, FileEntry]:
    """Return size and SHA-256 of every shard by path; UserError when one is not written."""
    found = {_shard_file(s): _written_shard(work, s) for s in range(layout.num_shards)}
    written = {name: entry for name, entry in found.items() if entry is not None}
    if missing := len(found) - len(written):
        raise UserError(
            f"{work.path}: {missing} of {layout.num_shards} shards are not written; run "
            "--stage shards again, with every --part"
        )
    return written


def _manifest(options: DatasetOptions, layout: _Layout, read: list[ReadTrack]) -> Manifest:
    plan, transform = layout.plan, get_transform(options.transform)
    num_windows = plan.num_windows()
    split_bed = options.splits.bed
    return Manifest(
        species=options.species,
        seq_length=options.seq_length,
        bin_size=options.bin_size,
        target_length=options.target_length,
        stride=None if options.splits.windows else options.stride or options.span,
        transform=TransformInfo(name=transform.name, version=transform.version),
        missing=options.missing,
        storage=layout.storage,
        split=Split(
            method=plan.splits.method,
            settings=plan.splits.settings,
            hash=split_hash(plan.windows),
        ),
        num_windows=num_windows,
        num_tracks=len(read),
        mean_over="train" if "train" in num_windows else "all",
        contigs=layout.contigs,
        aliases=plan.aliases,
        sources=Sources(
            fasta=source_of(options.fasta),
            targets=source_of(options.targets),
            tracks=[result.source for result in read],
            split_bed=source_of(split_bed) if split_bed else None,
            masks={name: source_of(path) for name, path in options.masks.items()},
        ),
        report=_complete_report(plan.report, read),
        files={},
        created_with=created_with(),
    )


def _complete_report(report: Report, read: list[ReadTrack]) -> Report:
    tracks = [result.track for result in read]
    return report.model_copy(
        update={
            "saturated_bins": {t.identifier: t.saturated for t in tracks if t.saturated},
            # The plan's own come last, where a user with thousands of tracks still sees them.
            "warnings": [text for result in read for text in result.warnings] + report.warnings,
        }
    )
