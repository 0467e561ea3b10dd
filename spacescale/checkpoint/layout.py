"""Names, manifest and atomic pointers of a run folder (README.md beside this file)."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from spacescale.checkpoint.writing import Written
from spacescale.errors import UserError
from spacescale.files import files_below, sha256, sync, write_json

FORMAT, VERSION = "spacescale-checkpoint", 3
READABLE = (2, 3)  # 2 did not keep the experts that the probe chose
PARTIAL = ".partial"


def checkpoints_folder(output: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return output / "checkpoints"


def step_name(step: int) -> str:
    """Folder name of the checkpoint of an optimiser step."""
    return f"step-{step:08d}"


def lock_run(output: Path) -> IO[str]:
    """Hold the run folder for this process until it ends; UserError if another run holds it."""
    output.mkdir(parents=True, exist_ok=True)
    handle = (output / "run.lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{output}: in use by another run; choose another --output") from None
    return handle


def holds_run(output: Path) -> bool:
    """Whether a run was started in this folder."""
    return (output / "config.json").exists() or checkpoints_folder(output).exists()


def _files(folder: Path) -> list[Path]:
    return [p for p in files_below(folder) if p.is_file() and p.name != "manifest.json"]


def write_manifest(folder: Path, written: Mapping[str, Written] | None = None) -> None:
    """List every file of a checkpoint with size and sha256.

    written: what is known of files that are on the disk for certain. The others are synced and
    hashed here.
    """
    files = {name: asdict(of_file) for name, of_file in (written or {}).items()}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in files:
            sync(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    payload = {"format": FORMAT, "format_version": VERSION, "files": dict(sorted(files.items()))}
    write_json(folder / "manifest.json", payload, indent=1)


def verify(folder: Path) -> None:
    """Hold a checkpoint against its manifest. UserError names the first file that differs."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise UserError(f"{folder}: not a complete checkpoint (no manifest.json)")
    payload = json.loads(manifest.read_text())
    if payload.get("format") != FORMAT or payload.get("format_version") not in READABLE:
        raise UserError(
            f"{manifest}: format {payload.get('format')!r} version "
            f"{payload.get('format_version')!r}; expected {FORMAT!r} version {VERSION}. Use the "
            "spacescale that wrote it"
        )
    for name, expected in payload["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from the checkpoint")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{path}: {size} bytes, expected {expected['bytes']}")
        if sha256(path) != expected["sha256"]:
            raise UserError(f"{path}: damaged (its sha256 differs from the manifest's)")


def find_checkpoint(path: Path, pointer: str = "latest") -> Path | None:
    """Resolve a checkpoint folder, a run folder, or its checkpoints folder to one checkpoint.

    A run stands for the one that `pointer` names: 'latest', or 'best' (the latest if there is no
    best). None where there is no checkpoint at all.
    """
    if (path / "spacescale.json").is_file():
        return path
    folder = checkpoints_folder(path) if checkpoints_folder(path).is_dir() else path
    for name in (pointer, "latest"):
        if (folder / name).is_file():
            found = folder / (folder / name).read_text().strip()
            if not found.is_dir():
                raise UserError(f"{folder / name}: names {found.name!r}, which does not exist")
            return found
    return None


def data_splits(state: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the split hash of each species' data from a checkpoint's state or an export's record.

    None where the data are not known, or where an earlier spacescale did not keep the hash.
    """
    return dict.fromkeys(state["data_manifests"]) | state.get("data_splits", {})


def read_state(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `spacescale.json`."""
    path = folder / "spacescale.json"
    if not path.is_file():
        raise UserError(f"{folder}: not a spacescale checkpoint (no spacescale.json)")
    return json.loads(path.read_text())
