"""Folders of weights: read others' without running code, write ours whole or not at all."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spacescale import __version__
from spacescale.errors import UserError
from spacescale.files import new_folder, write_json
from spacescale.genome.tracks import Track, write_tracks
from spacescale.model.exports import (
    EXPORT_FORMAT,
    EXPORT_VERSION,
    SAFETENSORS,
    SHARD_INDEX,
    weight_files,
)
from spacescale.space_config import ModelConfig

PICKLED = "pytorch_model.bin"
SHARD_BYTES = 5 * 10**9


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's `config.json`; UserError if it is missing or not one JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected a folder with config.json and {PICKLED} or "
            f"{SAFETENSORS}"
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Every tensor of a folder's `model.safetensors`, else `pytorch_model.bin`; and that file.

    Of safetensors in several files, the index counts as the file.

    Nothing in the file is executed. Raises UserError if there is neither, or it is damaged or
    holds anything but named tensors.
    """
    if (folder / SHARD_INDEX).is_file():
        parts = [_read_safetensors(path) for path in weight_files(folder)]
        return {key: t for part in parts for key, t in part.items()}, folder / SHARD_INDEX
    for name, read in ((SAFETENSORS, _read_safetensors), (PICKLED, _read_pickled)):
        if (folder / name).is_file():
            return read(folder / name), folder / name
    raise UserError(f"{folder}: neither {SAFETENSORS} nor {PICKLED} is there")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged, or not a safetensors file: {error}") from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        # Only files of PyTorch's older format are no zip archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever a damaged or hostile file provokes
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {asked[1]}, and pickled code is never run" if asked else "damaged?"
        raise UserError(f"{path}: cannot be read as plain tensors ({reason})") from None
    if not isinstance(weights, dict):
        raise UserError(f"{path}: expected named tensors, found {type(weights).__name__}")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {key!r} is {type(value).__name__}, expected a tensor")
    return weights


def save_weights(
    weights: Mapping[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `model.safetensors` into a folder, readable by whoever may read the folder.

    Weights of more than `shard_bytes` become several files with an index, as transformers names
    them; no tensor is divided.
    """
    shards = list(_shards(weights, shard_bytes))
    if len(shards) == 1:
        _save(shards[0], folder / SAFETENSORS)
        return
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for shard, name in zip(shards, names, strict=True):
        _save(shard, folder / name)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in weights.values())},
        "weight_map": {
            key: name for shard, name in zip(shards, names, strict=True) for key in shard
        },
    }
    write_json(folder / SHARD_INDEX, index, indent=1)


def _shards(weights: Mapping[str, Tensor], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for key, tensor in weights.items():
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[key] = tensor
        size += tensor.nbytes
    yield shard


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    contiguous = {key: tensor.contiguous() for key, tensor in weights.items()}
    save_file(contiguous, path, metadata={"format": "pt"})
    # The library writes through a temporary file, which is its owner's alone.
    path.chmod(path.parent.stat().st_mode & 0o666)


def write_imported(
    out: Path,
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    tracks: Mapping[str, list[Track]],
    origin: dict[str, Any],
) -> None:
    """Write weights under our names as an export, which `Space.from_pretrained` reads.

    `origin` says where they come from and is kept in `config.json`. Raises UserError if `out`
    exists.
    """
    payload = {
        "format": EXPORT_FORMAT,
        "format_version": EXPORT_VERSION,
        "model": model.model_dump(mode="json"),
        "track_scale": "none",
        "trained": {
            "step": None,
            "metrics": {},
            "data_manifests": dict.fromkeys(model.species),
            "versions": {"imported with spacescale": __version__},
        },
        "origin": origin,
    }
    with new_folder(out) as folder:
        save_weights(weights, folder)
        write_json(folder / "config.json", payload, indent=1)
        (folder / "tracks").mkdir()
        for species, table in tracks.items():
            write_tracks(folder / "tracks" / f"{species}.tsv", table)
