"""Checks of a dataset's files and tables: all there, unaltered, and agreeing with each other."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from tqdm import tqdm

from spacescale.dataset.codecs import GENOME_SHARD_BP, codec_warning_ignored
from spacescale.dataset.folder import file_fault, unexpected_files
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import MANIFEST, Contig, GenomeManifest, Manifest
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.tar_targets import (
    ENDINGS,
    INDEX,
    SEQUENCE,
    SHARDS,
    TarTargets,
    sample_key,
    shard_name,
)
from spacescale.errors import UserError
from spacescale.files import stray_files
from spacescale.genome.aliases import shorten
from spacescale.genome.intervals import split_hash
from spacescale.prepare.tar_export import describe_window
from spacescale.prepare.writer import num_shards, shard_file
from spacescale.splits.leakage import split_overlaps
from spacescale.verify.findings import Finding, error, warning

_SHARD_OF_TARGETS = re.compile(rf"targets/c/(\d+)/0/0|{SHARDS}/targets-(\d+)\.tar")
_SHARD_OF_GENOME = re.compile(r"(?:genome|repeats)/c/(\d+)")


def check_files(folder: Path, manifest: GenomeManifest) -> Iterator[Finding]:
    """Compare every file with size and SHA-256 in the manifest, and the shards with its counts."""
    for name in unexpected_files(folder, manifest.files):
        yield error("files", folder / name, "is not in the manifest: remove it")
    for path in stray_files(folder):
        yield warning("files", path, "was left by a file manager or the disk, and does no harm")
    total = sum(entry.bytes for entry in manifest.files.values())
    with tqdm(desc="checksums", total=total, unit="B", unit_scale=True, disable=None) as progress:
        for name, entry in manifest.files.items():
            if fault := file_fault(folder / name, entry):
                yield error("files", folder / name, fault, content_of(name, manifest))
            progress.update(entry.bytes)
    expected = expected_files(manifest)
    for name in sorted(expected - manifest.files.keys()):
        place = content_of(name, manifest)
        yield error("counts", folder / name, "should be there, but is not in the manifest", place)
    for name in sorted(manifest.files.keys() - expected):
        yield error("counts", folder / name, "is in the manifest, but no part of such a dataset")


def expected_files(manifest: GenomeManifest) -> set[str]:
    """Return the files that a dataset of these counts consists of, without the manifest."""
    genome_bp = sum(contig.length for contig in manifest.contigs)
    arrays = ["genome"]
    if manifest.sequence and manifest.sequence.lower_case is not None:
        arrays.append("repeats")
    names = {"zarr.json", *(f"{array}/zarr.json" for array in arrays)}
    shards = range(-(-genome_bp // GENOME_SHARD_BP))
    names |= {f"{array}/c/{shard}" for array in arrays for shard in shards}
    if manifest.format_version > 2:
        names.add("sequence.bed")
    return names | _files_of_targets(manifest) if isinstance(manifest, Manifest) else names


def _files_of_targets(manifest: Manifest) -> set[str]:
    names = {"windows.bed", "tracks.tsv"}
    shards = range(num_shards(sum(manifest.num_windows.values()), manifest.storage))
    if manifest.storage.format == "webdataset":
        return names | {f"{SHARDS}/{name}" for name in (INDEX, *map(shard_name, shards))}
    return names | {"targets/zarr.json", *map(shard_file, shards)}


def content_of(name: str, manifest: GenomeManifest) -> str:
    """Say which windows or bases a file holds; empty for any other file."""
    if isinstance(manifest, Manifest) and (found := _SHARD_OF_TARGETS.fullmatch(name)):
        per_shard = manifest.storage.windows_per_shard
        first = int(found[1] or found[2]) * per_shard
        last = min(first + per_shard, sum(manifest.num_windows.values())) - 1
        return f"rows {first} to {last}"
    if found := _SHARD_OF_GENOME.fullmatch(name):
        start = int(found[1]) * GENOME_SHARD_BP
        return bases_at(start, start + GENOME_SHARD_BP, manifest.contigs)
    return ""


def bases_at(start: int, end: int, contigs: list[Contig]) -> str:
    """Say which stretches of contigs lie at these offsets of `genome`."""
    stretches = []
    for contig in contigs:
        first = max(start - contig.offset, 0)
        last = min(end - contig.offset, contig.length)
        if first < last:
            stretches.append(f"{contig.name}:{contig.start + first}-{contig.start + last}")
    return shorten(stretches)


def check_tables(data: SpeciesData) -> Iterator[Finding]:
    """Compare windows.bed, tracks.tsv and the manifest with each other."""
    yield from _check_windows(data)
    yield from _check_splits(data)
    yield from _check_tracks(data)


def _check_windows(data: SpeciesData) -> Iterator[Finding]:
    path, windows, manifest = data.path / "windows.bed", data.windows, data.manifest
    span = data.bin_size * data.target_length
    for row in np.flatnonzero(windows.end - windows.start != span):
        length = windows.end[row] - windows.start[row]
        what = f"is {length} bp long, a target of {data.target_length} bins is {span}"
        yield error("windows", path, what, row_name(data, int(row)))
    for row in range(len(data)):
        try:
            data.contig(row)
        except UserError as problem:
            yield error("windows", path, str(problem), row_name(data, row))
    names = dict.fromkeys(contig.name for contig in manifest.contigs)
    order = {name: number for number, name in enumerate(names)}
    places = [
        (order.get(str(chrom), len(order)), int(start))
        for chrom, start in zip(windows.chrom, windows.start, strict=True)
    ]
    for row in range(1, len(places)):
        if places[row] == places[row - 1]:
            what = "is listed twice"
        elif places[row] < places[row - 1]:
            what = "comes after a window that lies behind it"
        else:
            continue
        yield error("windows", path, what, row_name(data, row))
    counts = dict(Counter(windows.split.tolist()))
    if counts != manifest.num_windows:
        what = (
            f"has {_in_words(counts)} windows, the manifest says {_in_words(manifest.num_windows)}"
        )
        yield error("counts", path, what)


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))


def _check_splits(data: SpeciesData) -> Iterator[Finding]:
    path, intervals = data.path / "windows.bed", data.windows.intervals()
    if split_hash(intervals) != data.manifest.split.hash:
        yield error("splits", path, "does not have the split hash that the manifest says")
    for overlap in split_overlaps(intervals, data.seq_length):
        if overlap.targets:
            yield error("splits", path, str(overlap))
        else:
            yield warning("splits", path, str(overlap))


def _check_tracks(data: SpeciesData) -> Iterator[Finding]:
    path, manifest = data.path / "tracks.tsv", data.manifest
    names = Counter(track.identifier for track in data.tracks)
    for name in (name for name, count in names.items() if count > 1):
        yield warning("tracks", path, f"is the name of {names[name]} tracks", name)
    for track in data.tracks:
        if track.covered < 0 or track.covered > 1:
            yield error("tracks", path, f"covered is {track.covered}, no share", track.identifier)
        elif track.covered < 0.01:
            what = f"covers {100 * track.covered:.2g} % of the target bases"
            yield warning("tracks", path, what, track.identifier)
    num_sources = len(manifest.sources.tracks)
    if num_sources not in (0, len(data.tracks)):
        what = f"names {num_sources} files of tracks, tracks.tsv lists {len(data.tracks)}"
        yield error("counts", data.path / MANIFEST, what)
    for track, source in zip(data.tracks, manifest.sources.tracks, strict=False):
        if track.file != source.name:
            what = f"is made from {track.file}, the manifest says {source.name}"
            yield error("tracks", path, what, track.identifier)


def row_name(data: SpeciesData, row: int) -> str:
    """Return row and place of a window."""
    return f"row {row} ({data.place(row)})"


def check_layout(data: SpeciesGenome) -> Iterator[Finding]:
    """Check that arrays or tar shards are laid out as the manifest says."""
    genome_bp = sum(contig.length for contig in data.manifest.contigs)
    yield from _check_array(data.path / "genome", (genome_bp,), "uint8", None)
    if data.has_repeats:
        yield from _check_array(data.path / "repeats", (-(-genome_bp // 8),), "uint8", None)
    if isinstance(data, SpeciesData):
        yield from _check_targets(data)


def _check_targets(data: SpeciesData) -> Iterator[Finding]:
    if data.manifest.storage.format == "webdataset":
        yield from _check_tar_members(data)
        return
    shape = len(data), data.target_length, len(data.tracks)
    per_shard = data.manifest.storage.windows_per_shard
    yield from _check_array(data.path / "targets", shape, "float16", (per_shard, *shape[1:]))


def _check_array(
    path: Path, shape: tuple[int, ...], dtype: str, shards: tuple[int, ...] | None
) -> Iterator[Finding]:
    try:
        with codec_warning_ignored():
            array = zarr.open_array(path, mode="r")
    except Exception as problem:  # zarr raises many kinds for a file that anybody may have written
        yield error("layout", path / "zarr.json", f"cannot be read ({problem})")
        return
    found = {"shape": array.shape, "dtype": str(array.dtype), "shards": array.shards}
    expected = {"shape": shape, "dtype": dtype, "shards": shards or array.shards}
    for name, value in expected.items():
        if found[name] != value:
            yield error("layout", path / "zarr.json", f"{name} is {found[name]}, expected {value}")


def _check_tar_members(data: SpeciesData) -> Iterator[Finding]:
    """Compare what a reader of tar files finds with the index and with windows.bed."""
    store = TarTargets(data.path, data.manifest)
    per_shard = data.manifest.storage.windows_per_shard
    for shard, first in enumerate(range(0, len(data), per_shard)):
        rows = range(first, min(first + per_shard, len(data)))
        path = data.path / SHARDS / shard_name(shard)
        try:
            with tarfile.open(path, "r:") as tar:
                yield from _compare_members(data, store, path, rows, tar)
        except (OSError, tarfile.TarError) as problem:
            yield error("layout", path, f"is no readable tar file ({problem})")


def _compare_members(
    data: SpeciesData, store: TarTargets, path: Path, rows: range, tar: tarfile.TarFile
) -> Iterator[Finding]:
    endings = "json", SEQUENCE, ENDINGS[data.manifest.storage.codec]
    found = {member.name: member for member in tar}
    expected = [f"{sample_key(row)}.{ending}" for row in rows for ending in endings]
    if list(found) != expected:
        missing = shorten(sorted(set(expected) - found.keys())) or "none"
        what = f"should hold {len(expected)} members and holds {len(found)}; missing: {missing}"
        yield error("layout", path, what)
        return
    for row in rows:
        described, sequence, targets = (found[f"{sample_key(row)}.{end}"] for end in endings)
        place, name = store.place(row), row_name(data, row)
        indexed = (
            store.file_of(row),
            (place.sequence_offset, place.sequence_bytes),
            (place.targets_offset, place.targets_bytes),
        )
        lying = (sequence.offset_data, sequence.size), (targets.offset_data, targets.size)
        if indexed != (path, *lying):
            yield error("layout", path, f"the sample lies elsewhere than {INDEX} says", name)
        content = tar.extractfile(described)
        if content is None or content.read() != describe_window(data, row):
            yield error("layout", path, f"{described.name} differs from windows.bed", name)
