"""Write a species dataset: FASTA + BigWigs + targets table -> one verified folder."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import zarr
from tqdm import tqdm

from spacescale.data.checksums import list_files
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
    Sources,
    Split,
    Storage,
    TransformInfo,
)
from spacescale.data.shard_options import ShardOptions
from spacescale.data.shard_plan import Plan, make_plan
from spacescale.data.track_reader import ReadTrack, read_track, source_of
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval, split_hash
from spacescale.genome.sequence_files import Genome, read_genome
from spacescale.genome.tracks import Track, read_targets, write_tracks
from spacescale.genome.transforms import get_transform

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


def _read_tracks(
    scratch: Path, options: ShardOptions, tracks: Sequence[Track], plan: Plan
) -> list[ReadTrack]:
    """Fill the file scratch with float16 [tracks, windows, bins], track after track.

    Track by track, because thousands of BigWigs cannot be open at once.
    """
    scratch.touch()
    # A job carries the whole plan to its process, so a process gets a few jobs of many tracks.
    per_job = max(1, len(tracks) // (8 * options.workers)) if options.workers > 1 else 1
    firsts = range(0, len(tracks), per_job)
    batches = [tracks[first : first + per_job] for first in firsts]
    read_batch = partial(_read_batch, scratch, options, plan)
    read: list[ReadTrack] = []
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
) -> list[ReadTrack]:
    bytes_per_track = len(plan.windows) * options.target_length * 2
    results = []
    # Plain writes: on a full disk a writable memory map would kill the process.
    with scratch.open("r+b") as file:
        file.seek(first * bytes_per_track)
        for track in tracks:
            targets, result = read_track(options, plan, track)
            file.write(targets.tobytes())
            results.append(result)
    return results


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
    read: list[ReadTrack],
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
        missing=options.missing,
        storage=Storage(codec=options.codec, windows_per_shard=options.windows_per_shard),
        split=Split(method=_split_method(options), hash=split_hash(plan.windows)),
        num_windows=num_windows,
        num_tracks=len(read),
        mean_over="train" if "train" in num_windows else "all",
        contigs=contigs,
        aliases=plan.aliases,
        sources=Sources(
            fasta=source_of(options.fasta),
            targets=source_of(options.targets),
            tracks=[result.source for result in read],
            split_bed=source_of(options.contigs) if options.contigs else None,
        ),
        report=_complete_report(plan.report, read),
        files=list_files(folder),
        created_with={name: version(name) for name in ("spacescale", "zarr", "pcodec")},
    )
    text = manifest.model_dump_json(indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _split_method(options: ShardOptions) -> Literal["chroms", "bed", "held_out"]:
    if options.contigs:
        return "bed"
    return "chroms" if options.gives_splits else "held_out"


def _complete_report(report: Report, read: list[ReadTrack]) -> Report:
    tracks = [result.track for result in read]
    return report.model_copy(
        update={
            "saturated_bins": {t.identifier: t.saturated for t in tracks if t.saturated},
            # The plan's own come last, where a user with thousands of tracks still sees them.
            "warnings": [text for result in read for text in result.warnings] + report.warnings,
        }
    )
