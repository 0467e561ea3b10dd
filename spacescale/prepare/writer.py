"""The parts of a dataset folder, each written by one function; README.md says how they look."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import zarr
from tqdm import tqdm

from spacescale.dataset.codecs import codec_warning_ignored, targets_codecs
from spacescale.dataset.folder import list_files, refuse_existing
from spacescale.dataset.interval_table import write_intervals
from spacescale.dataset.manifest import save_manifest
from spacescale.dataset.schema import (
    FORMAT,
    FORMAT_VERSION,
    FileEntry,
    GenomeManifest,
    Manifest,
    Storage,
)
from spacescale.dataset.sequence_splits import sequence_splits
from spacescale.files import new_folder
from spacescale.genome.intervals import Interval
from spacescale.genome.tracks import Track, write_tracks
from spacescale.prepare.sequence import write_sequence


class TargetRows(Protocol):
    """Targets that may be larger than memory: a numpy array or map, or anything sliced alike."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(windows, bins, tracks)."""
        ...

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return the targets of these windows, float16 [rows, bins, tracks]."""
        ...


def write_dataset(
    target: Path,
    manifest: Manifest,
    genome: Iterable[np.ndarray],
    windows: Sequence[Interval],
    tracks: Sequence[Track],
    targets: TargetRows,
    overwrite: bool = False,
) -> Path:
    """Write the dataset folder `target` from targets that are known already; return its path.

    manifest: complete but for `sequence` and `files`, which are filled in here.
    genome: the base codes, uint8 [length], of each of `manifest.contigs`, in that order and each
    at its `offset`; one contig is held at a time.
    windows: target intervals in genome order, that of `manifest.contigs`, ascending within each.
    tracks: the rows of tracks.tsv, with covered, mean and saturated known.
    targets: [windows, bins, tracks], read shard by shard; see TargetRows.
    The folder appears when it is complete; an error leaves nothing behind. Raises UserError when
    `target` exists and `overwrite` is False, or is no dataset.
    """
    refuse_existing(target, overwrite)
    with new_folder(target, replace=overwrite) as folder:
        create_group(folder)
        stretches = sequence_splits(manifest.contigs, windows)
        stored = write_sequence(folder, manifest.contigs, genome, stretches)
        create_targets(folder, targets.shape, manifest.storage)
        shards = range(num_shards(len(windows), manifest.storage))
        for shard in tqdm(shards, desc="shards", unit="shard", disable=None):
            write_targets_shard(folder, shard, targets[rows_of(shard, manifest.storage)])
        write_intervals(folder / "windows.bed", windows)
        write_tracks(folder / "tracks.tsv", tracks)
        write_manifest(folder, manifest.model_copy(update={"sequence": stored.info}))
    return target


def create_group(folder: Path) -> None:
    """Make `folder` the zarr group of a dataset."""
    zarr.create_group(folder, attributes={"format": FORMAT, "format_version": FORMAT_VERSION})


def create_targets(folder: Path, shape: tuple[int, ...], storage: Storage) -> None:
    """Create the empty array `targets`, float16 [windows, bins, tracks]; one window a chunk."""
    _, bins, tracks = shape
    with codec_warning_ignored():
        zarr.create_array(
            folder / "targets",
            shape=shape,
            dtype=np.float16,
            chunks=(1, bins, tracks),
            shards=(storage.windows_per_shard, bins, tracks),
            **targets_codecs(storage.codec),
            # A missing chunk reads as fill_value: no window is NaN throughout, so it cannot pass.
            fill_value=np.nan,
            config={"write_empty_chunks": True},
            dimension_names=("window", "bin", "track"),
        )


def num_shards(num_windows: int, storage: Storage) -> int:
    """Return how many shards hold that many windows."""
    return -(-num_windows // storage.windows_per_shard)


def rows_of(shard: int, storage: Storage) -> slice:
    """Return the windows of a shard; the last shard may hold fewer."""
    return slice(shard * storage.windows_per_shard, (shard + 1) * storage.windows_per_shard)


def shard_file(shard: int) -> str:
    """Return where a shard of `targets` lies in the dataset."""
    return f"targets/c/{shard}/0/0"


def write_targets_shard(folder: Path, shard: int, values: np.ndarray) -> Path:
    """Write one shard of `targets`, float16 [windows of the shard, bins, tracks]; return its file.

    The same values give the same bytes. The file appears whole or not at all.
    """
    with codec_warning_ignored():
        # Without it zarr takes the metadata's word and leaves chunks of fill values out.
        array = zarr.open_array(folder / "targets", mode="r+").with_config(
            {"write_empty_chunks": True}
        )
    assert array.shards
    start = shard * array.shards[0]
    assert values.shape[0] == min(array.shards[0], array.shape[0] - start)
    array[start : start + values.shape[0]] = values
    return folder / shard_file(shard)


def write_manifest(
    folder: Path, manifest: GenomeManifest, known: Mapping[str, FileEntry] | None = None
) -> None:
    """Write manifest.json, with size and SHA-256 of every file of the folder filled in.

    known: those of files that have been hashed already, by path relative to the folder.
    """
    complete = manifest.model_copy(update={"files": list_files(folder, known)})
    save_manifest(folder, complete)


def created_with() -> dict[str, str]:
    """Return the versions that decide the bytes of a dataset."""
    return {name: version(name) for name in ("spacescale", "zarr", "pcodec")}
