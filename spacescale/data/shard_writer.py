"""Write a species dataset: FASTA + BigWigs + targets table -> one verified folder."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import zarr
from tqdm import tqdm

from spacescale.data.checksums import list_files, sha256
from spacescale.data.codecs import (
    GENOME_CHUNK_BP,
    GENOME_CHUNKS_PER_SHARD,
    WINDOWS_PER_SHARD,
    codec_warning_ignored,
    genome_codecs,
    targets_codecs,
)
from spacescale.data.schema import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    Contig,
    Manifest,
    Report,
    Source,
    Sources,
    TransformInfo,
)
from spacescale.data.shard_plan import Plan, ShardOptions, make_plan, track_path
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.genome.bigwig import BigWig
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import Genome, read_genome
from spacescale.genome.tracks import Track, read_targets, write_tracks
from spacescale.genome.transforms import get_transform, to_float16

_SCRATCH = ".scratch-targets"


def shard_species(options: ShardOptions) -> Path:
    """Write the dataset `options.out / options.species` and return that path.

    Everything is checked before coverage is read, and the folder appears only when complete:
    after an error or an interruption nothing is left behind. Needs scratch space for the targets
    as raw float16. Raises UserError for bad input, naming file, value and cure.
    """
    target = options.out / options.species
    _refuse_existing(target, options.overwrite)
    tracks = read_targets(options.targets)
    genome = read_genome(options.fasta)
    plan = make_plan(options, genome, tracks)
    with _partial_folder(target) as folder:
        _refuse_full_disk(folder, options, plan, len(tracks))
        _write_dataset(folder, options, genome, tracks, plan)
    return target


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target} exists; add --overwrite to replace it")
    if not (target / MANIFEST).is_file():
        raise UserError(f"{target} is no species dataset, so --overwrite will not replace it")


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """Give a sibling folder that becomes `target` on success and vanishes otherwise."""
    new_parents = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    folder = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot write into {target.parent}: {error.strerror}") from error
        yield folder
        _put_in_place(folder, target)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new_parents:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{target.parent}: {error.strerror}; nothing was kept") from error
        raise


def _put_in_place(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    folder.rename(target)
    shutil.rmtree(old)


def _refuse_full_disk(folder: Path, options: ShardOptions, plan: Plan, num_tracks: int) -> None:
    scratch = len(plan.windows) * options.target_length * num_tracks * 2
    free = shutil.disk_usage(folder).free
    if free < 2 * scratch:
        raise UserError(
            f"{options.out} has {free / 2**30:.1f} GiB free; scratch and result together may need "
            f"{2 * scratch / 2**30:.1f} GiB"
        )


def _write_dataset(
    folder: Path, options: ShardOptions, genome: Genome, tracks: list[Track], plan: Plan
) -> None:
    group = zarr.create_group(
        folder, attributes={"format": FORMAT, "format_version": FORMAT_VERSION}
    )
    contigs = _write_genome(group, genome, plan.windows)
    scratch = folder / _SCRATCH
    read = _read_tracks(scratch, options, tracks, plan)
    shape = (len(tracks), len(plan.windows), options.target_length)
    _write_targets(group, np.memmap(scratch, dtype=np.float16, mode="r", shape=shape))
    scratch.unlink()
    _write_windows(folder / "windows.bed", plan.windows)
    write_tracks(folder / "tracks.tsv", [result.track for result in read])
    _write_manifest(folder, options, contigs, plan, read)


def _write_genome(group: zarr.Group, genome: Genome, windows: list[Interval]) -> list[Contig]:
    """Write the contigs that carry windows one after another; return where each begins."""
    names = list(dict.fromkeys(window.chrom for window in windows))
    lengths = [genome.contigs[name].size for name in names]
    ends = np.cumsum(lengths).tolist()
    array = group.create_array(
        "genome",
        shape=(ends[-1],),
        dtype=np.uint8,
        chunks=(GENOME_CHUNK_BP,),
        shards=(GENOME_CHUNK_BP * GENOME_CHUNKS_PER_SHARD,),
        **genome_codecs(),
        fill_value=255,
        config={"write_empty_chunks": True},
        dimension_names=("base",),
    )
    array[:] = np.concatenate([genome.contigs[name] for name in names])
    return [
        Contig(name=name, length=length, offset=end - length)
        for name, length, end in zip(names, lengths, ends, strict=True)
    ]


@dataclass(frozen=True)
class _ReadTrack:
    """What reading one track told besides its targets; track: the row of tracks.tsv."""

    track: Track
    source: Source
    warnings: list[str]


def _read_tracks(
    scratch: Path, options: ShardOptions, tracks: Sequence[Track], plan: Plan
) -> list[_ReadTrack]:
    """Fill the file scratch with float16 [tracks, windows, bins], track after track.

    Track by track, because thousands of BigWigs cannot be open at once.
    """
    scratch.touch()
    # A job carries the whole plan to its process, so a process gets a few jobs of many tracks.
    per_job = max(1, len(tracks) // (8 * options.workers)) if options.workers > 1 else 1
    firsts = range(0, len(tracks), per_job)
    batches = [tracks[first : first + per_job] for first in firsts]
    read_batch = partial(_read_batch, scratch, options, plan)
    read: list[_ReadTrack] = []
    with (
        _parallel_map(options.workers) as run,
        tqdm(desc="tracks", total=len(tracks), unit="track", disable=None) as progress,
    ):
        for results in run(read_batch, firsts, batches):
            read.extend(results)
            progress.update(len(results))
    return read


@contextmanager
def _parallel_map(workers: int) -> Iterator[Callable]:
    if workers == 1:
        yield map
        return
    # zarr's thread is running here: no fork
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read_batch(
    scratch: Path, options: ShardOptions, plan: Plan, first: int, tracks: Sequence[Track]
) -> list[_ReadTrack]:
    bytes_per_track = len(plan.windows) * options.target_length * 2
    results = []
    # Plain writes: on a full disk a writable memory map would kill the process.
    with scratch.open("r+b") as file:
        file.seek(first * bytes_per_track)
        for track in tracks:
            targets, result = _read_track(options, plan, track)
            file.write(targets.tobytes())
            results.append(result)
    return results


def _read_track(options: ShardOptions, plan: Plan, track: Track) -> tuple[np.ndarray, _ReadTrack]:
    """Return the track's targets, float16 [windows, bins], and what there is to say of it."""
    path, transform = track_path(options, track), get_transform(options.transform)
    targets = np.empty((len(plan.windows), options.target_length), dtype=np.float16)
    covered: Counter[str] = Counter()
    saturated, negative = 0, False
    with BigWig(path) as file:
        name_in_track = {plan.aliases.get(name, name): name for name in file.contigs}
        for row, window in enumerate(plan.windows):
            values = file.read(name_in_track[window.chrom], window.start, window.end)
            covered[window.chrom] += int(np.count_nonzero(~np.isnan(values)))
            negative = negative or bool((values < 0).any())
            bins = transform.bins(values.reshape(-1, options.bin_size), track)
            targets[row], beyond = to_float16(bins)
            saturated += beyond
    targets = transform.finish(targets)
    finished = replace(
        track,
        file=path.name,
        covered=covered.total() / (len(plan.windows) * options.span),
        mean=float(targets[_mean_rows(plan)].mean(dtype=np.float64)),
        saturated=saturated,
    )
    uncovered = [chrom for chrom, bases in covered.items() if not bases]
    return targets, _ReadTrack(finished, _source(path), _warnings(finished, uncovered, negative))


def _mean_rows(plan: Plan) -> list[int]:
    train = [row for row, window in enumerate(plan.windows) if window.split == "train"]
    return train or list(range(len(plan.windows)))


def _warnings(track: Track, uncovered: list[str], negative: bool) -> list[str]:
    found = []
    if uncovered:
        found.append(f"has no value on {shorten(uncovered)}")
    if negative:
        found.append("has negative coverage")
    if track.saturated:
        found.append(f"has {track.saturated} bins beyond float16, cut to 65504")
    if track.mean == 0:
        found.append("is 0 in every window its mean is taken over")
    return [f"track {track.identifier} {text}" for text in found]


def _write_targets(group: zarr.Group, scratch: np.ndarray) -> None:
    """Turn scratch [tracks, windows, bins] into `targets` [windows, bins, tracks]."""
    num_tracks, num_windows, num_bins = scratch.shape
    with codec_warning_ignored():
        array = group.create_array(
            "targets",
            shape=(num_windows, num_bins, num_tracks),
            dtype=np.float16,
            chunks=(1, num_bins, num_tracks),
            shards=(WINDOWS_PER_SHARD, num_bins, num_tracks),
            **targets_codecs(),
            # A missing chunk reads as fill_value: no stored target is NaN, so it cannot pass.
            fill_value=np.nan,
            config={"write_empty_chunks": True},
            dimension_names=("window", "bin", "track"),
        )
        starts = range(0, num_windows, WINDOWS_PER_SHARD)
        for start in tqdm(starts, desc="shards", unit="shard", disable=None):
            rows = slice(start, start + WINDOWS_PER_SHARD)
            array[rows] = np.ascontiguousarray(scratch[:, rows].transpose(1, 2, 0))


def _write_windows(path: Path, windows: list[Interval]) -> None:
    lines = (f"{w.chrom}\t{w.start}\t{w.end}\t{w.split}\n" for w in windows)
    path.write_text("".join(lines), encoding="utf-8")


def _write_manifest(
    folder: Path,
    options: ShardOptions,
    contigs: list[Contig],
    plan: Plan,
    read: list[_ReadTrack],
) -> None:
    num_windows = plan.num_windows()
    transform = get_transform(options.transform)
    manifest = Manifest(
        species=options.species,
        seq_length=options.seq_length,
        bin_size=options.bin_size,
        target_length=options.target_length,
        stride=options.stride or options.span,
        transform=TransformInfo(name=transform.name, version=transform.version),
        num_windows=num_windows,
        num_tracks=len(read),
        mean_over="train" if "train" in num_windows else "all",
        contigs=contigs,
        aliases=plan.aliases,
        sources=Sources(
            fasta=_source(options.fasta),
            targets=_source(options.targets),
            tracks=[result.source for result in read],
            split_bed=_source(options.contigs) if options.contigs else None,
        ),
        report=_complete_report(plan.report, read),
        files=list_files(folder),
        created_with={name: version(name) for name in ("spacescale", "zarr", "pcodec")},
    )
    text = manifest.model_dump_json(indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _complete_report(report: Report, read: list[_ReadTrack]) -> Report:
    tracks = [result.track for result in read]
    return report.model_copy(
        update={
            "saturated_bins": {t.identifier: t.saturated for t in tracks if t.saturated},
            # The plan's own come last, where a user with thousands of tracks still sees them.
            "warnings": [text for result in read for text in result.warnings] + report.warnings,
        }
    )


def _source(path: Path) -> Source:
    return Source(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))
