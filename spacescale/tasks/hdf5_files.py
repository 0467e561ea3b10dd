"""The door to HDF5, which some tasks come in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spacescale.errors import UserError


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An h5py.File to read; UserError where it is none, or h5py is not there."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: HDF5 is read by h5py: pip install 'spacescale[prep]'") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5 ({error})") from error
