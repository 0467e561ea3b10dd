"""What making a dataset will take, before anything is written where it will stand."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from spacescale.dataset.schema import Contig, Storage
from spacescale.files import failed_writes_explained
from spacescale.genome.sequence_files import Genome, read_genome
from spacescale.genome.tracks import Track
from spacescale.prepare.advice import advice
from spacescale.prepare.bin_summary import BinSummary
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import DatasetPlan, make_plan
from spacescale.prepare.scratch import Scratch
from spacescale.prepare.sequence import write_genome
from spacescale.prepare.stages import read_tracks_table
from spacescale.prepare.track_reader import WindowMasks, look_at_track, read_track
from spacescale.prepare.writer import (
    create_group,
    create_targets,
    num_shards,
    write_targets_shard,
)

_SAMPLE_TRACKS = 8
_SAMPLE_WINDOWS = 16
_SAMPLE_BASES = 2**20
# To look at for advice: tracks, and bases of each of them; further ones while there is time.
_LOOK_TRACKS, _LOOK_BASES, _LOOK_SECONDS = 32, 2**22, 20.0


@dataclass(frozen=True)
class Estimate:
    """What a dataset will hold and take. Bytes and seconds but raw_bytes are extrapolated.

    raw_bytes: targets as float16. stored_bytes: targets compressed; genome_bytes: the genome.
    scratch_bytes: needed beside them until the end. seconds: with options.workers processes.
    sample_tracks, sample_windows: what was read to find out. advice: what to decide, in lines;
    looked_tracks, looked_windows: what that is from.
    """

    plan: DatasetPlan
    num_tracks: int
    num_shards: int
    raw_bytes: int
    stored_bytes: int
    genome_bytes: int
    scratch_bytes: int
    seconds: float
    sample_tracks: int
    sample_windows: int
    advice: list[str]
    looked_tracks: int
    looked_windows: int


def estimate(options: DatasetOptions) -> Estimate:
    """Plan a dataset, and read and compress a sample of it in the system's temporary folder.

    Raises UserError as `make_dataset` does for files that do not fit, and where that folder is
    full.
    """
    start = time.perf_counter()
    tracks = read_tracks_table(options)
    with (
        TemporaryDirectory(prefix="spacescale-plan-") as name,
        failed_writes_explained(Path(name).parent),
    ):
        folder = Path(name)
        genome = read_genome(options.fasta, folder / "codes")
        plan = make_plan(options, genome, tracks)
        planning_s = time.perf_counter() - start
        some_tracks = _evenly_spaced(tracks, _SAMPLE_TRACKS)
        windows = _evenly_spaced(plan.windows, _SAMPLE_WINDOWS)
        targets, track_s = _read_sample(options, plan, some_tracks, windows)
        values = len(plan.windows) * options.target_length * len(tracks)
        share, value_s = _store_sample(folder, targets, options.storage)
        bases = sum(contig.length for contig in plan.contigs)
        genome_share, base_s = store_bases(folder, genome, plan.contigs)
    looked_plan, looks = _look(options, plan, tracks)
    work_s = len(tracks) * track_s + values * value_s
    return Estimate(
        plan=plan,
        num_tracks=len(tracks),
        num_shards=num_shards(len(plan.windows), options.storage),
        raw_bytes=2 * values,
        stored_bytes=round(2 * values * share),
        genome_bytes=round(bases * genome_share),
        scratch_bytes=Scratch(
            Path(), "track", len(plan.windows), options.target_length, len(tracks)
        ).num_bytes,
        seconds=planning_s + bases * base_s + work_s / options.workers,
        sample_tracks=len(some_tracks),
        sample_windows=len(windows),
        advice=advice(options, looked_plan, looks),
        looked_tracks=len(looks),
        looked_windows=len(looked_plan.windows),
    )


def _look(
    options: DatasetOptions, plan: DatasetPlan, tracks: list[Track]
) -> tuple[DatasetPlan, list[tuple[Track, BinSummary]]]:
    """Return the plan of some of the windows, and summaries of some of the tracks in them."""
    count = max(_LOOK_BASES // options.span, _SAMPLE_WINDOWS)
    some = replace(plan, windows=_evenly_spaced(plan.windows, count))
    masks, begun = WindowMasks.of(options, some), time.perf_counter()
    looks = []
    for track in _evenly_spaced(tracks, _LOOK_TRACKS):
        if not looks or time.perf_counter() - begun < _LOOK_SECONDS:
            looks.append((track, look_at_track(options, some, masks, track)))
    return some, looks


def _evenly_spaced(items: list, count: int) -> list:
    """Return up to `count` of the items, evenly spread, in order."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]


def _read_sample(
    options: DatasetOptions, plan: DatasetPlan, tracks: list[Track], windows: list
) -> tuple[np.ndarray, float]:
    """Return targets, float16 [windows, bins, tracks], and the seconds all windows of one take."""
    one, some = replace(plan, windows=windows[:1]), replace(plan, windows=windows)
    masks_of_one, masks = WindowMasks.of(options, one), WindowMasks.of(options, some)
    found, total_s = [], 0.0
    for track in tracks:
        # A track takes a fixed time, mostly for its checksum, and so much for each window. Only
        # the first reading meets a file that the system does not hold in memory yet.
        _, first_s = _timed_read(options, one, masks_of_one, track)
        _, fixed_s = _timed_read(options, one, masks_of_one, track)
        targets, sample_s = _timed_read(options, some, masks, track)
        window_s = max(sample_s - fixed_s, 0.0) / max(len(windows) - 1, 1)
        total_s += first_s + window_s * (len(plan.windows) - 1)
        found.append(targets)
    return np.stack(found, axis=-1), total_s / len(tracks)


def _timed_read(
    options: DatasetOptions, plan: DatasetPlan, masks: WindowMasks, track: Track
) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    targets, _ = read_track(options, plan, masks, track)
    return targets, time.perf_counter() - start


def _store_sample(folder: Path, targets: np.ndarray, storage: Storage) -> tuple[float, float]:
    """Return stored bytes per raw byte and seconds per value."""
    storage = storage.model_copy(update={"windows_per_shard": len(targets)})
    create_group(folder)
    create_targets(folder, targets.shape, storage)
    write_targets_shard(folder, 0, targets)  # the first takes longer
    start = time.perf_counter()
    file = write_targets_shard(folder, 0, targets)
    return file.stat().st_size / targets.nbytes, (time.perf_counter() - start) / targets.size


def store_bases(folder: Path, genome: Genome, contigs: list[Contig]) -> tuple[float, float]:
    """Return stored bytes and seconds per base, from the middle of the longest contig."""
    longest = max(contigs, key=lambda contig: contig.length)
    first = max((longest.length - _SAMPLE_BASES) // 2, 0)
    bases = genome.contigs[longest.name][first : first + _SAMPLE_BASES]
    sample = Contig(name=longest.name, length=bases.size, offset=0)
    start = time.perf_counter()
    write_genome(folder, [sample], [bases])
    seconds = time.perf_counter() - start
    stored = sum(p.stat().st_size for p in (folder / "genome" / "c").rglob("*") if p.is_file())
    return stored / bases.size, seconds / bases.size
