"""Targets in WebDataset tar shards, found by an index: README.md says what lies where."""

import zlib
from dataclasses import astuple, dataclass, fields
from io import BytesIO, FileIO
from os import pread
from pathlib import Path

import numpy as np
from numcodecs.pcodec import PCodec

from spacescale.dataset.schema import Manifest
from spacescale.errors import UserError
from spacescale.files import write_text

SHARDS = "shards"
INDEX = "index.tsv"
SEQUENCE = "sequence.npy"
TITLE = "# spacescale-tar-index 1"
PCODEC_LEVEL = 8
# The ending of a sample's targets, by codec.
ENDINGS = {"pcodec": "targets.pco", "none": "targets.npy"}


@dataclass(frozen=True)
class IndexRow:
    """Where the members of a window lie: number of the shard, then bytes within the file."""

    row: int
    shard: int
    targets_offset: int
    targets_bytes: int
    targets_crc32: int
    sequence_offset: int
    sequence_bytes: int
    sequence_crc32: int


COLUMNS = tuple(field.name for field in fields(IndexRow))


def sample_key(row: int) -> str:
    """Return the key of a window's sample: its row."""
    return f"{row:08d}"


def shard_name(shard: int) -> str:
    """Return the file name of a shard."""
    return f"targets-{shard:06d}.tar"


def encode(targets: np.ndarray, codec: str) -> bytes:
    """Return the member that holds the targets of a window, float16 [bins, tracks]."""
    if codec == "pcodec":
        return bytes(PCodec(level=PCODEC_LEVEL).encode(np.ascontiguousarray(targets).reshape(-1)))
    return to_npy(targets)


def decode(content: bytes, codec: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return what `encode` was given, of this shape; ValueError when it cannot be."""
    if codec == "pcodec":
        values = PCodec().decode(content)
    else:
        values = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    return np.asarray(values, dtype=np.float16).reshape(shape)


def to_npy(array: np.ndarray) -> bytes:
    """Return the content of a .npy file."""
    file = BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def write_index(path: Path, rows: list[IndexRow]) -> None:
    """Write the index of all shards, a line per window."""
    lines = [TITLE, "\t".join(COLUMNS)]
    lines += ["\t".join(str(value) for value in astuple(row)) for row in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_index(path: Path, num_windows: int) -> np.ndarray:
    """Return the index, int64 [windows, columns]; UserError unless it is complete and ours."""
    try:
        with path.open(encoding="utf-8") as file:
            title, header = file.readline().rstrip("\n"), file.readline().rstrip("\n")
            if title != TITLE:
                raise UserError(f"{path} begins with {title!r}, expected {TITLE!r}")
            if header != "\t".join(COLUMNS):
                raise UserError(f"{path} is damaged: its columns are {header!r}")
            index = np.loadtxt(file, dtype=np.int64, delimiter="\t", ndmin=2, comments=None)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if index.shape != (num_windows, len(COLUMNS)) or (index[:, 0] != range(num_windows)).any():
        raise UserError(f"{path} is damaged: it should list the windows 0 to {num_windows - 1}")
    return index


def read_member(file: FileIO, offset: int, size: int, crc32: int) -> bytes:
    """Return bytes of an open shard; ValueError unless they are there with that checksum."""
    content = pread(file.fileno(), size, offset)
    if len(content) != size:
        raise ValueError(f"the file ends before byte {offset + size}")
    if zlib.crc32(content) != crc32:
        raise ValueError(f"bytes {offset} to {offset + size} do not have the checksum of {INDEX}")
    return content


class TarTargets:
    """The targets of a dataset in tar shards. Holds the index, keeps no file open."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder / SHARDS
        self._codec = manifest.storage.codec
        self._shape = manifest.target_length, manifest.num_tracks
        self._index = read_index(self.folder / INDEX, sum(manifest.num_windows.values()))

    def read(self, row: int) -> np.ndarray:
        """Return the stored values of a window, float16 [bins, tracks].

        Raises OSError when the shard cannot be read and ValueError when it is damaged.
        """
        place = self.place(row)
        with self.file_of(row).open("rb", buffering=0) as file:
            content = read_member(
                file, place.targets_offset, place.targets_bytes, place.targets_crc32
            )
        return decode(content, self._codec, self._shape)

    def sequence(self, row: int) -> np.ndarray:
        """Return the base codes stored beside the targets, uint8 [seq_length in bp]."""
        place = self.place(row)
        with self.file_of(row).open("rb", buffering=0) as file:
            content = read_member(
                file, place.sequence_offset, place.sequence_bytes, place.sequence_crc32
            )
        return np.lib.format.read_array(BytesIO(content), allow_pickle=False)

    def place(self, row: int) -> IndexRow:
        """Return where a window lies."""
        return IndexRow(*self._index[row].tolist())

    def file_of(self, row: int) -> Path:
        """Return the shard that holds a window."""
        return self.folder / shard_name(self.place(row).shard)
