"""Sizes and SHA-256 of the files of a dataset folder."""

import hashlib
from pathlib import Path

from spacescale.data.schema import MANIFEST, FileEntry


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Return {path relative to folder, with '/': size and SHA-256} for all but the manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return {
        p.relative_to(folder).as_posix(): FileEntry(bytes=p.stat().st_size, sha256=sha256(p))
        for p in paths
    }


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
