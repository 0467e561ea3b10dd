"""A dataset's folder appears when it is complete, and replaces an old one whole."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spacescale.data.schema import MANIFEST
from spacescale.errors import UserError


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise UserError when `target` exists and is no dataset that `overwrite` may replace."""
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target} exists; add --overwrite to replace it")
    if not (target / MANIFEST).is_file():
        raise UserError(f"{target} is no species dataset, so --overwrite will not replace it")


@contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Give an empty sibling folder that becomes `target` on success and vanishes otherwise.

    The parents of `target` are made, and vanish too. Raises UserError when `target` may not be
    replaced, its parent cannot be written, or the disk is full.
    """
    refuse_existing(target, overwrite)
    folder = target.with_name(f".{target.name}.partial-{os.getpid()}")
    with made_parents(target), failed_writes_explained(target.parent):
        make_folder(folder)
        try:
            yield folder
            put_in_place(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def failed_writes_explained(parent: Path) -> Iterator[None]:
    """Turn a full disk, or a place that may not be written, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise UserError(
            f"cannot write into {parent}: {error.strerror}; nothing was kept"
        ) from error


@contextmanager
def made_parents(target: Path) -> Iterator[None]:
    """Make the parents of `target`; after an error those that were made and are empty vanish."""
    missing = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    make_folder(target.parent)
    try:
        yield
    except BaseException:
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; UserError says why it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a complete folder to `target`, and remove the dataset that stood there."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)  # also one that a killed run left
