"""Texts, JSON and folders that are on the disk whole or not at all; checksums; others' leftovers.

"On the disk" means after fsync: what a function here has written survives a power failure.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from spacescale.errors import UserError

PARTIAL = ".partial"  # the name of what is not complete yet ends so

_STRAY = re.compile(
    r"\.DS_Store|\._.*|\.AppleDouble|\.localized|Icon\r"  # macOS
    r"|\.Spotlight-V100|\.Trashes|\.fseventsd"
    r"|Thumbs\.db|ehthumbs\.db|desktop\.ini|.*:Zone\.Identifier"  # Windows
    r"|\.directory|\.Trash-\d+"  # Linux desktops
    r"|@eaDir|#recycle|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.stfolder|\.syncthing\..*",  # servers
    re.IGNORECASE,
)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_size(num_bytes: int) -> str:
    """Say a number of bytes in the unit that suits it."""
    if num_bytes < 1024:
        return f"{num_bytes} bytes"
    size, unit = num_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:,.1f} {unit}"


def size_below(folder: Path) -> int:
    """Bytes in all files below a folder, without those that vanish while it is walked."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += (Path(parent) / name).stat().st_size
    return size


# --- single files ---


def write_text(path: Path, text: str | bytes) -> None:
    """Write or replace a file, in UTF-8: readers see the old content or the new, never a part."""
    new = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with new.open("wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_entries(path.parent)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write or replace a JSON file as `write_text` does. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; UserError names the file where it is missing, damaged or another."""
    try:
        value = json.loads(
            path.read_bytes().decode(),
            object_pairs_hook=_no_name_twice,
            parse_constant=_no_such_number,
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The last one would win without a word, and hide what stood under the name before."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_such_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, once others have let it go; on a disk without locks do not wait."""
    with path.open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync(path: Path) -> None:
    """Force a file, or a folder with all that is in it, onto the disk."""
    for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def forget_cached(path: Path) -> None:
    """Force a file onto the disk and out of memory, so that it is read from the disk again.

    The system may keep it all the same: memory of a RAM disk, or what another process has mapped.
    """
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_entries(folder: Path) -> None:
    """Force the names in a folder onto the disk: which files there are, under which name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- folders ---


def require_absent(*targets: Path) -> None:
    """Raise UserError for what exists; for work that is long to be refused before it begins."""
    for target in targets:
        if target.exists():
            raise UserError(f"{target}: already exists; choose another --out")


@contextmanager
def new_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Give an empty sibling folder that becomes `target` on success and vanishes otherwise.

    replace: what stands at `target` is removed then. The parents of `target` are made, and vanish
    after an error. Raises UserError when `target` exists and is not to be replaced, its parent
    cannot be written, or the disk is full.
    """
    if not replace:
        require_absent(target)
    folder = target.with_name(f".{target.name}{PARTIAL}-{os.getpid()}")
    with made_parents(target), failed_writes_explained(target.parent):
        make_folder(folder)
        try:
            yield folder
            put_in_place(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def new_files(*targets: Path) -> Iterator[list[Path]]:
    """Give a sibling for each file, which take their names on success and vanish otherwise.

    All lie in one folder; the first takes its name last. Raises UserError when one exists, and as
    `new_folder`.
    """
    require_absent(*targets)
    parts = [t.with_name(f".{t.name}{PARTIAL}-{os.getpid()}") for t in targets]
    with made_parents(targets[0]), failed_writes_explained(targets[0].parent):
        try:
            yield parts
            for part, target in reversed(list(zip(parts, targets, strict=True))):
                sync(part)
                part.rename(target)
            sync_entries(targets[0].parent)
        except BaseException:
            for part in parts:
                part.unlink(missing_ok=True)
            raise


def put_in_place(folder: Path, target: Path) -> None:
    """Force a complete folder onto the disk, rename it to `target`, remove what stood there.

    Between its two renames `target` is away: `restore` brings back what a killed process left so.
    """
    sync(folder)
    old = _put_aside(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    folder.rename(target)
    sync_entries(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore(target: Path) -> None:
    """Bring back the folder that a process, killed while it replaced `target`, had put aside."""
    old = _put_aside(target)
    if old.is_dir() and not target.exists():
        old.rename(target)


def _put_aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


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


# --- files of file managers, sync tools and network file systems ---


def is_stray(path: PurePath) -> bool:
    """Whether a relative path, or a folder on it, is named as only such programs name files."""
    return any(_STRAY.fullmatch(part) for part in path.parts)


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, links included, sorted; stray ones left out."""
    return [path for path in _all_below(folder) if not is_stray(path.relative_to(folder))]


def stray_files(folder: Path) -> list[Path]:
    """Return the stray files below a folder, sorted."""
    return [path for path in _all_below(folder) if is_stray(path.relative_to(folder))]


def _all_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())
