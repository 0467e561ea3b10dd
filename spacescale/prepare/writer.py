"""The parts of a dataset folder, each written by one function; README.md says how they look."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import zarr
from tqdm import tqdm

from spacescale.dataset.codecs import (
    GENOME_CHUNK_BP,
    GENOME_SHARD_BP,
    codec_warning_ignored,
    genome_codecs,
    targets_codecs,
)
from spacescale.dataset.folder import list_files, refuse_existing
from spacescale.dataset.manifest import save_manifest
from spacescale.dataset.schema import (
    FORMAT,
    FORMAT_VERSION,
    Contig,
    FileEntry,
    Manifest,
    Storage,
)
from spacescale.files import new_folder, write_text
from spacescale.genome.intervals import Interval
from spacescale.genome.tracks import Track, write_tracks


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

    manifest: complete but for `files`, which is filled in here.
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
        write_genome(folder, manifest.contigs, genome)
        create_targets(folder, targets.shape, manifest.storage)
        shards = range(num_shards(len(windows), manifest.storage))
        for shard in tqdm(shards, desc="shards", unit="shard", disable=None):
            write_targets_shard(folder, shard, targets[rows_of(shard, manifest.storage)])
        write_windows(folder, windows)
        write_tracks(folder / "tracks.tsv", tracks)
        write_manifest(folder, manifest)
    return target


def create_group(folder: Path) -> None:
    """Make `folder` the zarr group of a dataset."""
    zarr.create_group(folder, attributes={"format": FORMAT, "format_version": FORMAT_VERSION})


def place_contigs(lengths: Mapping[str, int], windows: Iterable[Interval]) -> list[Contig]:
    """Return where in `genome` each contig that carries windows lies, in the windows' order."""
    contigs, offset = [], 0
    for name in dict.fromkeys(window.chrom for window in windows):
        contigs.append(Contig(name=name, length=lengths[name], offset=offset))
        offset += lengths[name]
    return contigs


def write_genome(folder: Path, contigs: Sequence[Contig], codes: Iterable[np.ndarray]) -> None:
    """Write `genome`: the base codes of the contigs, uint8 [length] each, one after another."""
    array = zarr.create_array(
        folder / "genome",
        shape=(sum(contig.length for contig in contigs),),
        dtype=np.uint8,
        chunks=(GENOME_CHUNK_BP,),
        shards=(GENOME_SHARD_BP,),
        **genome_codecs(),
        fill_value=255,
        config={"write_empty_chunks": True},
        dimension_names=("base",),
    )
    # Shard by shard, because a shard that is written in two parts is read back and compressed anew.
    shard, filled, start = np.empty(min(GENOME_SHARD_BP, array.shape[0]), np.uint8), 0, 0
    for contig, bases in zip(contigs, codes, strict=True):
        assert contig.offset == start + filled and contig.length == bases.size
        taken = 0
        while taken < bases.size:
            part = bases[taken : taken + shard.size - filled]
            shard[filled : filled + part.size] = part
            filled, taken = filled + part.size, taken + part.size
            if filled == shard.size:
                array[start : start + filled] = shard
                start, filled = start + filled, 0
    if filled:
        array[start : start + filled] = shard[:filled]


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


def write_windows(folder: Path, windows: Iterable[Interval]) -> None:
    """Write windows.bed: chrom, start, end, split of each row of `targets`."""
    lines = (f"{w.chrom}\t{w.start}\t{w.end}\t{w.split}\n" for w in windows)
    write_text(folder / "windows.bed", "".join(lines))


def write_manifest(
    folder: Path, manifest: Manifest, known: Mapping[str, FileEntry] | None = None
) -> None:
    """Write manifest.json, with size and SHA-256 of every file of the folder filled in.

    known: those of files that have been hashed already, by path relative to the folder.
    """
    complete = manifest.model_copy(update={"files": list_files(folder, known)})
    save_manifest(folder, complete)


def created_with() -> dict[str, str]:
    """Return the versions that decide the bytes of a dataset."""
    return {name: version(name) for name in ("spacescale", "zarr", "pcodec")}
