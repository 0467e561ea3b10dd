"""The files of a dataset folder: may it be written, what lies in it, is each as it should be."""

from collections.abc import Mapping
from pathlib import Path

from spacescale.dataset.schema import MANIFEST, FileEntry
from spacescale.errors import UserError
from spacescale.files import files_below, restore, sha256


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Raise UserError when `target` exists and is no dataset that `overwrite` may replace.

    First brings back a dataset that a process, killed while it replaced it, had put aside.
    """
    restore(target)
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target} exists; add --overwrite to replace it")
    if not (target / MANIFEST).is_file():
        raise UserError(f"{target} is no species dataset, so --overwrite will not replace it")


def list_files(folder: Path, known: Mapping[str, FileEntry] | None = None) -> dict[str, FileEntry]:
    """Return {path relative to folder, with '/': size and SHA-256} for all but the manifest.

    known: entries of files that need not be read again.
    """
    paths = [p for p in files_below(folder) if p.is_file() and p != folder / MANIFEST]
    names = {p.relative_to(folder).as_posix(): p for p in paths}
    return {name: (known or {}).get(name) or file_entry(p) for name, p in names.items()}


def file_entry(path: Path) -> FileEntry:
    """Return size and SHA-256 of a file."""
    return FileEntry(bytes=path.stat().st_size, sha256=sha256(path))


def unexpected_files(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """Return what lies in the folder, links included, but is neither listed nor the manifest.

    What a file manager left there does not count.
    """
    there = {p.relative_to(folder).as_posix() for p in files_below(folder)}
    return sorted(there - files.keys() - {MANIFEST})


def size_fault(path: Path, entry: FileEntry) -> str:
    """Say how a file differs from its entry, contents aside; empty if it does not."""
    if not path.is_file():
        return "is missing: the dataset is incomplete, copy it again"
    if (size := path.stat().st_size) != entry.bytes:
        return f"has {size} bytes, the manifest says {entry.bytes}: copy it again"
    return ""


def file_fault(path: Path, entry: FileEntry) -> str:
    """Say how a file differs from its entry, contents included; empty if it does not."""
    if fault := size_fault(path, entry):
        return fault
    if sha256(path) != entry.sha256:
        return "differs from its SHA-256 in the manifest: copy it again"
    return ""
