"""Names, manifest and state of the checkpoints in a run folder (README.md beside this file)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from spacescale.checkpoint.writing import Written
from spacescale.config import Config, describe_errors
from spacescale.dataset.manifest import find_species, read_manifest
from spacescale.errors import UserError
from spacescale.files import files_below, forget_cached, read_json, sha256, sync_entries, write_json
from spacescale.model.exports import Beginning

FORMAT, VERSION = "spacescale-checkpoint", 4
# 2 did not keep the experts that the probe chose; 2 and 3 read windows in another order, so that
# they convert but cannot be resumed.
READABLE = (2, 3, 4)
PARTIAL = ".partial"
MANIFEST, STATE, CONFIG = "manifest.json", "spacescale.json", "config.json"
_NAME = re.compile(r"step-(\d{8,12})(?:\.aside-(\d+))?")


def checkpoints_folder(output: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return output / "checkpoints"


def step_name(step: int) -> str:
    """Folder name of the checkpoint of an optimiser step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step that the name of a checkpoint tells, also of one set aside; None for other names."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else None


def is_set_aside(folder: Path) -> bool:
    """Whether this is the name of a checkpoint that was set aside."""
    match = _NAME.fullmatch(folder.name)
    return match is not None and match[2] is not None


def holds_run(output: Path) -> bool:
    """Whether a run was started in this folder."""
    return (output / CONFIG).exists() or checkpoints_folder(output).exists()


# ---- The manifest --------------------------------------------------------------------------------


class _File(BaseModel):
    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class _Files(BaseModel):
    files: dict[str, _File]


def _files(folder: Path) -> list[Path]:
    return [p for p in files_below(folder) if p.is_file() and p.name != MANIFEST]


def write_manifest(folder: Path, written: Mapping[str, Written] | None = None) -> None:
    """List every file of a checkpoint with size and sha256.

    written: what is known of files that were read back already. The others are read back from the
    disk here.
    """
    files = {name: asdict(of_file) for name, of_file in (written or {}).items()}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in files:
            forget_cached(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    for subfolder in {path.parent for path in _files(folder)}:
        sync_entries(subfolder)
    payload = {"format": FORMAT, "format_version": VERSION, "files": dict(sorted(files.items()))}
    write_json(folder / MANIFEST, payload, indent=1)


def _read_manifest(folder: Path) -> tuple[int, dict[str, _File]]:
    """The format's version, and what is known of each file."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: not a complete checkpoint (no {MANIFEST})")
    payload = read_json(path)
    version = payload.get("format_version")
    if payload.get("format") != FORMAT or version not in READABLE:
        raise UserError(
            f"{path}: format {payload.get('format')!r} version {version!r}; expected {FORMAT!r} "
            f"version {VERSION}. Use the spacescale that wrote it"
        )
    try:
        files = _Files.model_validate(payload, strict=True).files
    except ValidationError as error:
        raise UserError(f"{path}: damaged: {describe_errors(error)}") from None
    if STATE not in files:
        raise UserError(f"{path}: damaged: does not list {STATE}")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts or not name.isprintable():
            raise UserError(f"{path}: damaged: lists {name!r}, which is no file of a checkpoint")
    return version, files


def _check_file(path: Path, expected: _File) -> None:
    try:
        if not path.is_file():
            raise UserError(f"{path}: missing from the checkpoint")
        size = path.stat().st_size
        if size != expected.bytes:
            raise UserError(f"{path}: {size} bytes, expected {expected.bytes}")
        if sha256(path) != expected.sha256:
            raise UserError(f"{path}: damaged (its sha256 differs from the manifest's)")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read: {error}") from None


def verify(folder: Path) -> None:
    """Hold a checkpoint against its manifest. UserError names the first file that differs."""
    version, files = _read_manifest(folder)
    for name, expected in files.items():
        _check_file(folder / name, expected)
    for path in _files(folder):  # those of weights are found by their names
        if path.suffix == ".safetensors" and path.relative_to(folder).as_posix() not in files:
            raise UserError(f"{path}: not listed in the checkpoint's {MANIFEST}")
    written_as = read_state(folder)["format_version"]
    if written_as != version:
        raise UserError(f"{folder / MANIFEST}: damaged: version {version}, was {written_as}")


# ---- The state -----------------------------------------------------------------------------------

_Count = Annotated[int, Field(ge=0, le=10**12)]


class _Layout(BaseModel):
    world_size: _Count
    ep_size: _Count
    zero_stage: _Count
    micro_batch_size: _Count
    gradient_accumulation_steps: _Count


class _Start(BaseModel):
    id: str
    step: _Count


class _StepWatch(BaseModel):
    spikes: dict[str, list[float]] = {}
    skipped: list[_Count] = []
    nonfinite_in_a_row: _Count = 0


_Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
_LossSum = Annotated[list[float], Field(min_length=3, max_length=3)]


class _ValidationWatch(BaseModel):
    not_better: _Count = 0
    losses: dict[str, list[_Pair]] = {}


class _State(BaseModel):
    """What is read of `spacescale.json`, and its types; README.md says what it means."""

    format: str
    format_version: _Count
    step: _Count
    adam_step: _Count
    metrics: dict[str, float | None]
    best_score: float | None
    config: dict[str, Any]
    layout: _Layout
    data_manifests: dict[str, str | None]  # None of species kept from imported weights
    data_splits: dict[str, str | None] = {}
    data_transforms: dict[str, str] = {}  # {} where an earlier spacescale did not keep them
    data_contigs: dict[str, dict[str, _Count]] = {}  # the same
    began_with: Beginning | None = None  # missing where an earlier spacescale did not keep it
    versions: dict[str, str]
    time: float = 0.0
    run: str = ""
    lineage: list[_Start] = []
    step_watch: _StepWatch = _StepWatch()
    validation_watch: _ValidationWatch = _ValidationWatch()
    losses_since_log: dict[str, _LossSum] = {}
    losses_since_validation: dict[str, _LossSum] = {}
    validation_due: bool = False


def read_state(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `spacescale.json`, held against the manifest.

    Raises UserError where one of the two is missing, damaged or not what was written.
    """
    path = folder / STATE
    if not path.is_file():
        raise UserError(f"{folder}: not a spacescale checkpoint (no {STATE})")
    _, files = _read_manifest(folder)
    _check_file(path, files[STATE])
    payload = read_json(path)
    try:
        _State.model_validate(payload, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_errors(error)}") from None
    if step_of(folder) not in (None, payload["step"]):
        raise UserError(f"{path}: of step {payload['step']}, which is not what its folder says")
    return payload


def read_config(folder: Path, state: Mapping[str, Any]) -> Config:
    """The configuration in a checkpoint's state; UserError where it is none of this version's."""
    try:
        return Config.model_validate(state["config"])
    except ValidationError as error:
        raise UserError(f"{folder / STATE}: config: {describe_errors(error)}") from None


def data_splits(state: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the split hash of each species' data from a checkpoint's state or an export's record.

    They are those of `SpeciesGenome.splits_identity`. None where the data are not known, or where
    an earlier spacescale did not keep the hash.
    """
    return dict.fromkeys(state["data_manifests"]) | state.get("data_splits", {})


def beginning(trained: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's state or an export's record keeps of what training began with.

    Under `began_with` a `Beginning`, None where it began anew; {} where an earlier spacescale did
    not keep it.
    """
    return {"began_with": trained["began_with"]} if "began_with" in trained else {}


def beginnings(trained: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The `Beginning` of a checkpoint's state or an export's record, that of it, and so on."""
    while trained := trained.get("began_with") or {}:
        yield trained


def describe_beginning(began: Mapping[str, Any]) -> str:
    """A `Beginning` in words for people, without its path: steps, and species with their data."""
    data = began["data_manifests"]
    of = ", ".join(
        f"{name} ({hash_[:12] if hash_ else 'data not known'})" for name, hash_ in data.items()
    )
    step = "an unknown step" if began["step"] is None else f"step {began['step']:,}"
    return f"{step}, of {of}"


def data_contigs(state: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Species → length in bp of the contigs of its genome, by name, from a checkpoint's state.

    Where an earlier spacescale did not keep them, they are those of the run's data sets, of those
    that are still where they were.
    """
    if "data_contigs" in state:
        return state["data_contigs"]
    found = {}
    for path in state["config"].get("data", {}).get("paths", []):
        with suppress(UserError):
            for folder in find_species(Path(path)):
                manifest, identity = read_manifest(folder)
                if identity == state["data_manifests"].get(manifest.species):
                    found[manifest.species] = manifest.whole_contigs
    return found
