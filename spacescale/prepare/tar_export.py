"""Copy a species dataset into WebDataset tar shards: the same windows, lying differently."""

import json
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO

from tqdm import tqdm

from spacescale.dataset.folder import list_files, refuse_existing
from spacescale.dataset.manifest import save_manifest
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import Codec, FileEntry, Storage
from spacescale.dataset.tar_targets import (
    ENDINGS,
    INDEX,
    SEQUENCE,
    SHARDS,
    IndexRow,
    decode,
    encode,
    read_member,
    sample_key,
    shard_name,
    to_npy,
    write_index,
)
from spacescale.errors import UserError
from spacescale.files import new_folder
from spacescale.prepare.jobs import local_workers, run_jobs

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

_JOBS_PER_WORKER = 64
# The parts of a dataset that both forms share.
_SHARED = ("zarr.json", "genome", "repeats", "sequence.bed", "windows.bed", "tracks.tsv")


def export_webdataset(
    source: Path,
    target: Path,
    codec: Codec = "pcodec",
    windows_per_shard: int = 16,
    workers: int = 1,
    overwrite: bool = False,
) -> Path:
    """Write the dataset `source` as tar shards into the new folder `target`, and return that.

    The source is checked against its checksums first, and every window is read back from its
    shard. The result holds the same bits whatever `workers`, the number of processes. Raises
    UserError when the source is damaged, or the target exists and may not be replaced.
    """
    if codec not in ENDINGS:
        raise UserError(f"codec {codec!r}: tar shards know {', '.join(ENDINGS)}")
    if windows_per_shard < 1:
        raise UserError(f"windows_per_shard {windows_per_shard} must be at least 1")
    if workers < 1:
        raise UserError(f"workers {workers} must be at least 1")
    data = SpeciesData.open(source)
    if target.resolve().is_relative_to(data.path.resolve()):
        raise UserError(f"{target} is the dataset itself, or lies in it: give another --out")
    data.verify()
    refuse_existing(target, overwrite)
    with new_folder(target, replace=overwrite) as folder:
        _copy_shared(data.path, folder)
        (folder / SHARDS).mkdir()
        rows = _write_shards(data, folder / SHARDS, codec, windows_per_shard, workers)
        write_index(folder / SHARDS / INDEX, rows)
        storage = Storage(format="webdataset", codec=codec, windows_per_shard=windows_per_shard)
        versions = {name: version(name) for name in ("spacescale", "pcodec", "webdataset")}
        files = list_files(folder)
        _refuse_changed(data, files)
        manifest = data.manifest.model_copy(
            update={
                "storage": storage,
                "files": files,
                "created_with": data.manifest.created_with | versions,
            }
        )
        save_manifest(folder, manifest)
    return target


def _copy_shared(source: Path, folder: Path) -> None:
    for name in _SHARED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif (source / name).is_file():  # not every dataset has all of them
            shutil.copyfile(source / name, folder / name)


def _refuse_changed(data: SpeciesData, files: Mapping[str, FileEntry]) -> None:
    """Compare the copies of the shared files with what the source's manifest says of them."""
    for name, entry in data.manifest.files.items():
        if PurePath(name).parts[0] in _SHARED and files.get(name) != entry:
            raise UserError(f"{data.path / name} was not copied unharmed: run the command again")


def _write_shards(
    data: SpeciesData, folder: Path, codec: str, windows_per_shard: int, workers: int
) -> list[IndexRow]:
    num_shards = -(-len(data) // windows_per_shard)
    # Each job opens the dataset anew, so one job takes many shards of a large dataset.
    per_job = -(-num_shards // (_JOBS_PER_WORKER * workers))
    jobs = [(range(i, min(i + per_job, num_shards)),) for i in range(0, num_shards, per_job)]
    write = partial(_write_job, data.path, folder, codec, windows_per_shard)
    index: list[IndexRow] = []
    with (
        local_workers(workers) as executor,
        tqdm(desc="windows", total=len(data), unit="window", disable=None) as progress,
    ):
        for rows in run_jobs(executor, write, jobs):
            index.extend(rows)
            progress.update(len(rows))
    return sorted(index, key=lambda place: place.row)


def _write_job(
    source: Path, folder: Path, codec: str, windows_per_shard: int, shards: range
) -> list[IndexRow]:
    data = SpeciesData.open(source)
    index: list[IndexRow] = []
    for shard in shards:
        first = shard * windows_per_shard
        windows = range(first, min(first + windows_per_shard, len(data)))
        index += _write_shard(data, folder, codec, shard, windows)
    return index


def _write_shard(
    data: SpeciesData, folder: Path, codec: str, shard: int, windows: range
) -> list[IndexRow]:
    """Write a shard and return its part of the index; what lies on disk is read back."""
    path = folder / shard_name(shard)
    crc32 = {}
    with path.open("wb") as file, _tar_writer(file) as tar:
        for row in windows:
            sample = _sample(data, row, codec)
            crc32[row] = zlib.crc32(sample[ENDINGS[codec]]), zlib.crc32(sample[SEQUENCE])
            tar.write({"__key__": sample_key(row), **sample})
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
    rows = []
    for row in windows:
        targets = members[f"{sample_key(row)}.{ENDINGS[codec]}"]
        sequence = members[f"{sample_key(row)}.{SEQUENCE}"]
        place = targets.offset_data, targets.size, crc32[row][0]
        rows.append(
            IndexRow(row, shard, *place, sequence.offset_data, sequence.size, crc32[row][1])
        )
    with path.open("rb", buffering=0) as file:
        for row in rows:
            read_member(file, row.targets_offset, row.targets_bytes, row.targets_crc32)
            read_member(file, row.sequence_offset, row.sequence_bytes, row.sequence_crc32)
    return rows


def _tar_writer(file: BinaryIO) -> "TarWriter":
    try:
        from webdataset.writer import TarWriter
    except ImportError as error:
        raise UserError(
            "writing tar shards needs webdataset: pip install 'spacescale[prep]'"
        ) from error
    # Fixed owner and time: the same dataset gives the same bytes.
    return TarWriter(file, user="spacescale", group="spacescale", mtime=0, encoder=False)


def _sample(data: SpeciesData, row: int, codec: str) -> dict[str, bytes]:
    """Return the members of a window's sample by their endings; enough to be used alone."""
    targets = data.targets(row)
    encoded = encode(targets, codec)
    assert decode(encoded, codec, targets.shape).tobytes() == targets.tobytes()
    return {
        ENDINGS[codec]: encoded,
        SEQUENCE: to_npy(data.sequence(row)),
        "json": describe_window(data, row),
    }


def describe_window(data: SpeciesData, row: int) -> bytes:
    """Return the JSON member of a window's sample: what its arrays are of."""
    windows, margin = data.windows, (data.seq_length - data.target_length * data.bin_size) // 2
    place = {
        "species": data.name,
        "chrom": str(windows.chrom[row]),
        "start": int(windows.start[row]),
        "end": int(windows.end[row]),
        "split": str(windows.split[row]),
        "bin_size": data.bin_size,
        "targets_shape": [data.target_length, len(data.tracks)],
        "sequence_start": int(windows.start[row]) - margin,
    }
    return json.dumps(place).encode()
