"""SPACE's training sets: one HDF5 file a split.

`sequences` [windows, bases, 4], one-hot, bool as a rule; `targets` [windows, bins, tracks],
float32 as a rule; both may be of any type of numbers. The windows themselves are in a BED beside
them, those of a split in the order of its rows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.arguments import given_path
from spacescale.errors import UserError
from spacescale.genome.file_kinds import refuse_other_kinds
from spacescale.prepare.importers.encodings import as_floats, codes_from_one_hot
from spacescale.prepare.importers.source import Block, Geometry, Record

_SPLIT_IN_NAME = re.compile(r"(?:^|[_.-])(train|valid|val|test|fold\d+)$")
# Rows are read in steps, so that a chunk of several windows is inflated once.
_STEP_BYTES = 2**28
_BLOCK_ROWS = 64
_MAX_CHUNK_BYTES = 2**31


class SpaceHdf5:
    """An ImportSource on {split: file}. bin_size in bp, which the files do not tell.

    Raises UserError naming file and dataset when a file is damaged or of another layout, or when
    the files differ in anything but their number of windows.
    """

    def __init__(self, files: Mapping[str, Path], bin_size: int):
        shapes = {split: _check_layout(path) for split, path in files.items()}
        first, *others = files
        for split in others:
            if shapes[split][1:] != shapes[first][1:]:
                raise UserError(
                    f"{files[split]} and {files[first]} are of one set, but hold (bases, bins, "
                    f"tracks) {shapes[split][1:]} and {shapes[first][1:]}"
                )
        _, seq_length, target_length, self.num_tracks = shapes[first]
        self.geometry = Geometry(seq_length, bin_size, target_length)
        self.geometry.check(f"{files[first]} with --bin-size {bin_size}")
        self.num_records = {split: shape[0] for split, shape in shapes.items()}
        self._files = dict(files)

    @property
    def files(self) -> list[Path]:
        """The HDF5 files."""
        return list(self._files.values())

    def blocks(self, executor: Executor | None) -> list[Block]:
        """Return blocks of at least _BLOCK_ROWS rows, as far as a file has them."""
        found = []
        for split, path in self._files.items():
            with _opened(path) as file:
                step = _rows_per_step(file["sequences"], file["targets"])
            rows = -(-_BLOCK_ROWS // step) * step
            for first in range(0, self.num_records[split], rows):
                count = min(rows, self.num_records[split] - first)
                found.append(Block(split, path, first, count))
        return found

    def records(self, block: Block) -> Iterator[Record]:
        """Yield the rows of a block in order."""
        path, end = block.file, block.first + block.count
        with _opened(path) as file:
            sequences, targets = file["sequences"], file["targets"]
            step = _rows_per_step(sequences, targets)
            for start in range(block.first, end, step):
                stop = min(start + step, end)
                with _readable(path, f"rows {start} to {stop}"):
                    one_hot = _as_numbers(sequences[start:stop])
                    values = as_floats(_as_numbers(targets[start:stop]))
                for row, (bases, bins) in enumerate(zip(one_hot, values, strict=True), start):
                    yield _record(f"{path}: row {row}", bases, bins)


def files_by_split(arguments: Sequence[str]) -> dict[str, Path]:
    """Return {split: file} of arguments `split=FILE`, or FILE with a name that ends in the split.

    Raises UserError where the name does not tell, or two files claim one split.
    """
    files: dict[str, Path] = {}
    for argument in arguments:
        split, equals, name = argument.partition("=")
        path = given_path(name if equals else argument)
        if not equals:
            match = _SPLIT_IN_NAME.search(path.stem)
            if match is None:
                raise UserError(f"{path}: its name does not end in a split; write train={path}")
            split = match[1].replace("val", "valid") if match[1] == "val" else match[1]
        if split in files:
            raise UserError(f"split {split}: both {files[split]} and {path}")
        files[split] = path
    return files


def _record(place: str, bases: np.ndarray, bins: np.ndarray) -> Record:
    try:
        return Record(place, codes_from_one_hot(bases), bins)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def _as_numbers(values: np.ndarray) -> np.ndarray:
    # A damaged file may hold other bytes than 0 and 1, which as bool would all be true.
    return values.view(np.uint8) if values.dtype == bool else values


def _check_layout(path: Path) -> tuple[int, int, int, int]:
    """Return (windows, bases, bins, tracks) of a file."""
    with _opened(path) as file:
        with _readable(path, "its header"):
            sequences = _dataset(path, file, "sequences")
            targets = _dataset(path, file, "targets")
        if sequences.shape[2] != 4:
            raise UserError(f"{path}: sequences has the shape {sequences.shape}, not (…, …, 4)")
        if sequences.shape[0] != targets.shape[0]:
            raise UserError(
                f"{path} has {sequences.shape[0]} sequences, but targets for {targets.shape[0]}"
            )
        return sequences.shape[0], sequences.shape[1], targets.shape[1], targets.shape[2]


def _dataset(path: Path, file: Any, name: str) -> Any:
    """Return a dataset after a look at its type and shape; reads no values."""
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        names = ", ".join(sorted(map(str, file))[:8])
        raise UserError(f"{path} has no dataset {name!r}; it has {names or 'nothing'}")
    if found.dtype.kind not in "biuf" or len(found.shape) != 3 or 0 in found.shape[1:]:
        raise UserError(
            f"{path}: {name} is {found.dtype} {found.shape}; expected sequences [windows, bases, "
            "4] and targets [windows, bins, tracks], numbers"
        )
    row = found.dtype.itemsize * found.shape[1] * found.shape[2]
    chunk = found.dtype.itemsize * int(np.prod(found.chunks or (1,), dtype=object))
    if max(row, chunk) > _MAX_CHUNK_BYTES:
        raise UserError(
            f"{path}: {name} has rows of {row:,} and chunks of {chunk:,} bytes; at most "
            f"{_MAX_CHUNK_BYTES:,} can be read at once"
        )
    return found


def _rows_per_step(*datasets: Any) -> int:
    rows = max(dataset.chunks[0] if dataset.chunks else 1 for dataset in datasets)
    row_bytes = max(
        dataset.dtype.itemsize * dataset.shape[1] * dataset.shape[2] for dataset in datasets
    )
    return max(1, min(rows, _STEP_BYTES // row_bytes))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise UserError("reading HDF5 needs h5py: pip install 'spacescale[prep]'") from error
    if not path.is_file():
        raise UserError(f"no such HDF5 file: {path}")
    refuse_other_kinds(path, "an HDF5 file", {"hdf5"})
    with _readable(path, "its header"):
        file = h5py.File(path, "r")
    with file:
        yield file


@contextmanager
def _readable(path: Path, part: str) -> Iterator[None]:
    """Turn whatever the HDF5 library raises into one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is no HDF5 file, or {part} cannot be read ({error}): copy it again"
        ) from error
