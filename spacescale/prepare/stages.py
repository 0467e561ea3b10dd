"""Write a species dataset: FASTA + coverage + targets table -> one verified folder.

Four steps, each of which leaves on disk what the next one needs: prepare (check the files, lay
out the windows, write the genome), tracks (coverage -> scratch, track by track), shards (scratch
-> shards of windows), finish (tables, manifest, rename). What a step has done is not done again,
so a killed run continues; nothing in the result depends on that or on the number of workers.
"""

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from spacescale.dataset.folder import refuse_existing
from spacescale.dataset.schema import (
    Report,
    SequenceInfo,
    Sources,
    Split,
    TransformInfo,
)
from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.genome.interval_values import IntervalValues
from spacescale.genome.intervals import from_columns, split_hash, to_columns
from spacescale.genome.masks import Mask
from spacescale.genome.sequence_files import read_genome
from spacescale.genome.track_selection import select_tracks
from spacescale.genome.tracks import Track, read_targets, refuse_opposite_strands
from spacescale.genome.transforms import get_transform
from spacescale.prepare.advice import advice
from spacescale.prepare.jobs import Notify, local_workers, run_rest
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import DatasetPlan, make_plan, track_path
from spacescale.prepare.scratch import Scratch
from spacescale.prepare.sequence import write_sequence
from spacescale.prepare.shards import Shards, complete, publish, refuse_emptied_splits
from spacescale.prepare.track_reader import ReadTrack, WindowMasks, read_track, source_of
from spacescale.prepare.work_folder import WorkFolder, locked_exclusively, locked_shared, request_of

STAGES = ("prepare", "tracks", "shards", "finish")


def make_dataset(
    options: DatasetOptions,
    executor: Executor | None = None,
    notify: Notify = lambda _: None,
    advise: Notify = lambda _: None,
) -> Path:
    """Write the dataset `options.out / options.species` and return that path.

    executor: where tracks and shards are worked on; None takes `options.workers` processes of
    this machine. notify: called with a line when a killed run is continued. advise: called with
    each line of what a person should decide, once the dataset is there.
    Everything is checked before coverage is read, and the folder appears only when complete. Bad
    input leaves nothing behind. An interruption leaves `.NAME.partial`, from which the same call
    continues. Needs scratch space for the targets as raw float16. Raises UserError for bad input,
    naming file, value and cure, and when another run is writing the same dataset.
    """
    refuse_existing(options.target, options.overwrite)
    tracks = read_tracks_table(options)
    work, request = WorkFolder.of(options.target), dataset_request(options, tracks)
    # The work folder inside: a worker that died is no error in the input, so it stays.
    with _workers(options, executor) as pool, locked_exclusively(work, request, options.overwrite):
        _prepare(work, options, tracks)
        _read_tracks(work, options, tracks, range(len(tracks)), pool, notify)
        layout = _Layout.of(work, options, len(tracks))
        layout.shards.write(range(layout.shards.number), pool, notify)
        _finish(options, tracks, layout, advise)
    return options.target


def make_stage(
    options: DatasetOptions,
    stage: str,
    part: int = 1,
    parts: int = 1,
    executor: Executor | None = None,
    notify: Notify = lambda _: None,
    advise: Notify = lambda _: None,
) -> Path:
    """Do one of STAGES, as the jobs of a cluster do; the last returns the dataset's path.

    Of the tracks or shards, the `part`-th of `parts` (from 1) is done; different parts may run at
    the same time on different machines. Once it is prepared, the work folder stays. Raises
    UserError as `make_dataset` does, and when an earlier stage is not complete.
    """
    refuse_existing(options.target, options.overwrite)
    tracks = read_tracks_table(options)
    work, request = WorkFolder.of(options.target), dataset_request(options, tracks)
    if stage == "prepare":
        with locked_exclusively(work, request, options.overwrite):
            _prepare(work, options, tracks)
        return work.path
    if not work.plan.is_file():
        raise UserError(f"{work.path} is not prepared: run --stage prepare first")
    if stage == "finish":
        with locked_exclusively(work, request, keep=True):
            _finish(options, tracks, _Layout.of(work, options, len(tracks)), advise)
        return options.target
    with locked_shared(work, request), _workers(options, executor) as pool:
        if stage == "tracks":
            mine = range(part - 1, len(tracks), parts)
            _read_tracks(work, options, tracks, mine, pool, notify)
        else:
            shards = _Layout.of(work, options, len(tracks)).shards
            shards.write(range(part - 1, shards.number, parts), pool, notify)
    return work.path


def read_tracks_table(options: DatasetOptions) -> list[Track]:
    """Return the tracks of the targets table that `options.tracks` selects."""
    return select_tracks(read_targets(options.targets), options.tracks, options.targets)


def dataset_request(options: DatasetOptions, tracks: Sequence[Track]) -> dict[str, str]:
    """Return what decides the bytes of the dataset, see `request_of`."""
    settings = {
        field.name: getattr(given, field.name)
        for given in (options, options.splits)
        for field in fields(given)
    }
    settings["version of the transform"] = get_transform(options.transform).version
    return request_of(settings, [track_path(options, track) for track in tracks])


def _workers(options: DatasetOptions, executor: Executor | None):
    return nullcontext(executor) if executor else local_workers(options.workers)


# --- prepare ---


@dataclass(frozen=True)
class _Prepared:
    """What the work folder's plan holds. sequence: what the manifest will say of it."""

    plan: DatasetPlan
    sequence: SequenceInfo
    masks: WindowMasks

    def save(self, work: WorkFolder) -> None:
        """Mark the first step as done."""
        arrays = to_columns(self.plan.windows)
        if self.masks.unmappable is not None:
            arrays["unmappable"] = self.masks.unmappable
        stretches = self.masks.blacklist.by_contig.items()
        blacklist = {name: (s.starts.tolist(), s.ends.tolist()) for name, s in stretches}
        rest = _InPlan(replace(self.plan, windows=[]), self.sequence, blacklist)
        work.save_plan(_IN_PLAN.dump_json(rest), arrays)

    @classmethod
    def load(cls, work: WorkFolder) -> "_Prepared":
        """Return what was saved."""
        text, arrays = work.load_plan()
        rest = _IN_PLAN.validate_json(text)
        blacklist = {
            name: IntervalValues(np.array(starts), np.array(ends), np.ones(len(ends), np.float32))
            for name, (starts, ends) in rest.blacklist.items()
        }
        masks = WindowMasks(Mask(blacklist), arrays.get("unmappable"))
        return cls(replace(rest.plan, windows=from_columns(arrays)), rest.sequence, masks)


@dataclass(frozen=True)
class _InPlan:
    """What of `_Prepared` is not in arrays. blacklist: {contig: starts and ends}."""

    plan: DatasetPlan
    sequence: SequenceInfo
    blacklist: dict[str, tuple[list[int], list[int]]]


_IN_PLAN = TypeAdapter(_InPlan)


def _prepare(work: WorkFolder, options: DatasetOptions, tracks: Sequence[Track]) -> None:
    if work.plan.is_file():
        return
    genome = read_genome(options.fasta, work.codes, work.case)
    plan = make_plan(options, genome, tracks)
    scratch = _scratch(work, options, plan, len(tracks))
    scratch.refuse_full_disk()
    work.begin()
    codes = (genome.contigs[contig.name] for contig in plan.contigs)
    stored = write_sequence(work.dataset, plan.contigs, codes, plan.sequence, genome)
    work.codes.unlink()
    work.case.unlink()
    scratch.create()
    warnings = plan.report.warnings + stored.warnings
    plan = replace(plan, report=plan.report.model_copy(update={"warnings": warnings}))
    _Prepared(plan, stored.info, WindowMasks.of(options, plan)).save(work)


def _scratch(
    work: WorkFolder, options: DatasetOptions, plan: DatasetPlan, num_tracks: int
) -> Scratch:
    return Scratch(work.scratch, "track", len(plan.windows), options.target_length, num_tracks)


# --- tracks ---


def _read_tracks(
    work: WorkFolder,
    options: DatasetOptions,
    tracks: Sequence[Track],
    mine: Sequence[int],
    executor: Executor | None,
    notify: Notify,
) -> None:
    jobs = [
        (work, options, len(tracks), index, tracks[index])
        for index in mine
        if not work.part(index).is_file()
    ]
    run_rest(executor, _read_one, jobs, len(mine), "tracks are read", notify)


def _read_one(
    work: WorkFolder, options: DatasetOptions, num_tracks: int, index: int, track: Track
) -> None:
    prepared = _Prepared.load(work)
    targets, told = read_track(options, prepared.plan, prepared.masks, track)
    _scratch(work, options, prepared.plan, num_tracks).write([(index, targets)])
    # Plain JSON has no NaN, which some fields are until the end.
    write_text(work.part(index), json.dumps(_READ_TRACK.dump_python(told)))


_READ_TRACK = TypeAdapter(ReadTrack)


def _load_result(work: WorkFolder, index: int) -> ReadTrack:
    path = work.part(index)
    try:
        return _READ_TRACK.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(
            f"{path}: damaged, or of another version of spacescale; delete {work.path} to begin "
            "anew"
        ) from error


# --- shards and finish ---


@dataclass(frozen=True)
class _Layout:
    """What the dataset will hold, once every track is read.

    Where what was not measured is kept apart from 0, windows that no track measured are left out.
    plan: with the windows that are kept.
    """

    plan: DatasetPlan
    sequence: SequenceInfo
    shards: Shards

    @classmethod
    def of(cls, work: WorkFolder, options: DatasetOptions, num_tracks: int) -> "_Layout":
        """Read what the earlier steps left; UserError when tracks are not read yet."""
        missing = sum(not work.part(index).is_file() for index in range(num_tracks))
        if missing:
            raise UserError(
                f"{work.path}: {missing} of {num_tracks} tracks are not read; run --stage tracks "
                "again, with every --part"
            )
        prepared = _Prepared.load(work)
        plan = prepared.plan
        scratch = _scratch(work, options, plan, num_tracks)
        rows = np.arange(scratch.num_windows)
        if options.missing == "nan":
            rows = np.flatnonzero(scratch.measured())
            refuse_emptied_splits(plan.windows, rows)
            dropped = scratch.num_windows - rows.size
            plan = replace(
                plan,
                windows=[plan.windows[row] for row in rows.tolist()],
                report=plan.report.model_copy(update={"dropped_unmeasured": dropped}),
            )
        return cls(plan, prepared.sequence, Shards(work, scratch, options.storage, rows))


def _finish(
    options: DatasetOptions, tracks: Sequence[Track], layout: _Layout, advise: Notify
) -> None:
    shards, windows = layout.shards, layout.plan.windows
    read = [_load_result(shards.work, index) for index in range(len(tracks))]
    refuse_opposite_strands([r.track for r in read], [r.coverage for r in read])
    bases = len(windows) * options.span
    finished = [replace(result.track, covered=result.covered_bases / bases) for result in read]
    plan, transform, split_bed = layout.plan, get_transform(options.transform), options.splits.bed
    complete(
        shards,
        options,
        windows,
        finished,
        seq_length=options.seq_length,
        bin_size=options.bin_size,
        target_length=options.target_length,
        stride=None if options.splits.windows else options.stride or options.span,
        transform=TransformInfo(name=transform.name, version=transform.version),
        split=Split(
            method=plan.split_method, settings=plan.split_settings, hash=split_hash(windows)
        ),
        contigs=plan.contigs,
        aliases=plan.aliases,
        sequence=layout.sequence,
        sources=Sources(
            fasta=source_of(options.fasta),
            targets=source_of(options.targets),
            tracks=[result.source for result in read],
            split_bed=source_of(split_bed) if split_bed else None,
            masks={name: source_of(path) for name, path in options.masks.items()},
        ),
        report=_complete_report(plan.report, read),
    )
    publish(shards.work, dataset_request(options, tracks), options.target)
    for line in advice(options, plan, [(result.track, result.bins) for result in read]):
        advise(line)


def _complete_report(report: Report, read: list[ReadTrack]) -> Report:
    tracks = [result.track for result in read]
    return report.model_copy(
        update={
            "saturated_bins": {t.identifier: t.saturated for t in tracks if t.saturated},
            # The plan's own come last, where a user with thousands of tracks still sees them.
            "warnings": [text for result in read for text in result.warnings] + report.warnings,
        }
    )
