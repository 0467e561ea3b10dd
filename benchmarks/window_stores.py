"""The same windows stored in the ways of the field, each read as its users read it.

Every store is written once and then read one window after another: base codes uint8 [bp] or
one-hot, and targets float16 or float32 [bins, tracks].
"""

import shutil
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import webdataset
import zarr
from pcodec import standalone

from spacescale.dataset.codecs import codec_warning_ignored
from spacescale.dataset.reader import SpeciesData
from spacescale.prepare.importers.tf_example import parse_example
from spacescale.prepare.importers.tfrecord import masked_crc32c, read_records
from spacescale.prepare.tar_export import export_webdataset
from spacescale.testing.made_up_data import MadeUpWindows

Window = tuple[np.ndarray, np.ndarray]  # sequence, targets
BASES = np.eye(5, 4, dtype=bool)


class Store(ABC):
    """One way to store windows."""

    name = ""

    def __init__(self, folder: Path, windows: MadeUpWindows):
        self.folder, self.windows = folder / type(self).__name__, windows
        self.folder.mkdir()
        self.write()

    @abstractmethod
    def write(self) -> None:
        """Write all windows."""

    @abstractmethod
    def read(self) -> Iterable[Window]:
        """Read all windows."""

    def rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Row and targets of each window, to be written."""
        for row in range(self.windows.shape[0]):
            yield row, self.windows[row : row + 1][0]

    def stored_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Hdf5Gzip(Store):
    """As SPACE caches windows: one-hot bases and float32 targets, gzip, one window a chunk."""

    name = "HDF5 gzip, fp32"

    def write(self) -> None:
        """Two data sets in one file."""
        num_windows, bins, tracks = self.windows.shape
        length = self.windows.seq_length
        with h5py.File(self.folder / "windows.h5", "w") as file:
            options = {"compression": "gzip"}
            bases = file.create_dataset(
                "sequences", (num_windows, length, 4), bool, chunks=(1, length, 4), **options
            )
            targets = file.create_dataset(
                "targets", (num_windows, bins, tracks), "f4", chunks=(1, bins, tracks), **options
            )
            for row, values in self.rows():
                bases[row], targets[row] = BASES[self.windows.sequence(row)], values

    def read(self) -> Iterator[Window]:
        """Row by row."""
        with h5py.File(self.folder / "windows.h5") as file:
            for row in range(self.windows.shape[0]):
                yield file["sequences"][row], file["targets"][row]


class RawFloat32(Store):
    """Uncompressed float32 and base codes, mapped into memory and copied."""

    name = "raw .bin, fp32"

    def write(self) -> None:
        """Two files."""
        with (self.folder / "targets.bin").open("wb") as file:
            for _, values in self.rows():
                values.astype(np.float32).tofile(file)
        with (self.folder / "sequences.bin").open("wb") as file:
            for row in range(self.windows.shape[0]):
                self.windows.sequence(row).tofile(file)

    def read(self) -> Iterator[Window]:
        """Row by row."""
        bases = np.memmap(self.folder / "sequences.bin", np.uint8, "r")
        bases = bases.reshape(-1, self.windows.seq_length)
        targets = np.memmap(self.folder / "targets.bin", np.float32, "r", shape=self.windows.shape)
        for row in range(self.windows.shape[0]):
            yield np.array(bases[row]), np.array(targets[row])


class TfRecordZlib(Store):
    """As Basenji stores windows: records of base codes and float16 targets in one zlib stream."""

    name = "TFRecord zlib, fp16"

    def write(self) -> None:
        """One file."""
        squeeze = zlib.compressobj(6)
        with (self.folder / "train-0.tfr").open("wb") as file:
            for row, values in self.rows():
                record = _example(
                    sequence=self.windows.sequence(row).tobytes(), target=values.tobytes()
                )
                length = struct.pack("<Q", len(record))
                head = length + struct.pack("<I", masked_crc32c(length))
                tail = struct.pack("<I", masked_crc32c(record))
                file.write(squeeze.compress(head + record + tail))
            file.write(squeeze.flush())

    def read(self) -> Iterator[Window]:
        """Record by record, checksums compared."""
        for record in read_records(self.folder / "train-0.tfr", 2**30):
            found = parse_example(record, ("sequence", "target"))
            targets = np.frombuffer(found["target"], np.float16).reshape(self.windows.shape[1:])
            yield np.frombuffer(found["sequence"], np.uint8), targets


def _example(**features: bytes) -> bytes:
    """Serialise a tf.train.Example of bytes features."""

    def field(number: int, content: bytes) -> bytes:
        size, varint = len(content), b""
        while size > 127:
            varint, size = varint + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + varint + bytes([size]) + content

    entries = b"".join(
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value))))
        for name, value in features.items()
    )
    return field(1, entries)


class PlainZarr(Store):
    """zarr as it comes: float16, its default compression, one window a chunk and a file."""

    name = "zarr defaults, fp16"

    def write(self) -> None:
        """Two arrays."""
        num_windows, bins, tracks = self.windows.shape
        length = self.windows.seq_length
        group = zarr.create_group(self.folder / "windows.zarr")
        targets = group.create_array(
            "targets", shape=(num_windows, bins, tracks), dtype="f2", chunks=(1, bins, tracks)
        )
        bases = group.create_array(
            "sequences", shape=(num_windows, length), dtype="u1", chunks=(1, length)
        )
        for row, values in self.rows():
            targets[row], bases[row] = values, self.windows.sequence(row)

    def read(self) -> Iterator[Window]:
        """Row by row."""
        group = zarr.open_group(self.folder / "windows.zarr", mode="r")
        bases, targets = group["sequences"], group["targets"]
        for row in range(self.windows.shape[0]):
            yield np.asarray(bases[row]), np.asarray(targets[row])


class OurZarr(Store):
    """A species dataset as data_prep/shard.py writes it, through SpeciesData."""

    name = "spacescale, zarr"

    def write(self) -> None:
        """A dataset folder."""
        self.windows.write(self.folder / "data")

    @cached_property
    def data(self) -> SpeciesData:
        """The open dataset: a run opens it once."""
        return SpeciesData.open(self.folder / "data")

    def read(self) -> Iterator[Window]:
        """Row by row."""
        for row in range(len(self.data)):
            yield self.data.sequence(row), self.data.targets(row)


class OurTar(OurZarr):
    """The same as WebDataset shards, through SpeciesData."""

    name = "spacescale, tar"

    def write(self) -> None:
        """A dataset folder, exported."""
        super().write()
        (self.folder / "data").rename(self.folder / "zarr")
        export_webdataset(self.folder / "zarr", self.folder / "data")
        shutil.rmtree(self.folder / "zarr")


class WebDataset(OurTar):
    """The same tar shards, streamed by the webdataset library."""

    name = "webdataset library, .pco"

    def read(self) -> Iterator[Window]:
        """Sample by sample, in the order of the files."""
        shards = sorted(map(str, (self.folder / "data").rglob("*.tar")))
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            stored = {key: content for key, content in sample.items() if not key.startswith("__")}
            targets = standalone.simple_decompress(stored["targets.pco"])
            bases = np.frombuffer(stored["sequence.npy"], np.uint8)[-self.windows.seq_length :]
            yield bases, np.asarray(targets).reshape(self.windows.shape[1:])


class ZarrLibrary(OurZarr):
    """The same shards through the zarr library; bases through SpeciesData."""

    name = "spacescale's zarr, by the zarr library"

    @cached_property
    def array(self) -> zarr.Array:
        """The open array."""
        with codec_warning_ignored():
            return zarr.open_array(self.folder / "data" / "targets", mode="r")

    def read(self) -> Iterator[Window]:
        """Row by row."""
        for row in range(len(self.data)):
            yield self.data.sequence(row), np.asarray(self.array[row])


STORES: tuple[type[Store], ...] = (
    Hdf5Gzip,
    RawFloat32,
    TfRecordZlib,
    WebDataset,
    PlainZarr,
    OurZarr,
    OurTar,
    ZarrLibrary,
)
