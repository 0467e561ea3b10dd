"""Checkpoints made by hand: whole as far as manifests and states go, of a few numbers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from spacescale.checkpoint import layout
from spacescale.config import Config

LAYOUT = {
    "world_size": 2,
    "ep_size": 2,
    "zero_stage": 2,
    "micro_batch_size": 12,
    "gradient_accumulation_steps": 3,
}


def state_of(step: int, **more: Any) -> dict[str, Any]:
    """The state of a checkpoint, complete; `more` replaces parts of it."""
    return {
        "format": layout.FORMAT,
        "format_version": layout.VERSION,
        "step": step,
        "adam_step": step,
        "metrics": {},
        "best_score": None,
        "config": Config().model_dump(mode="json"),
        "layout": LAYOUT,
        "data_manifests": {},
        "versions": {},
    } | more


def seal(folder: Path, state: dict[str, Any]) -> Path:
    """Write state and manifest of a checkpoint whose other files are there."""
    (folder / layout.STATE).write_text(json.dumps(state))
    layout.write_manifest(folder)
    return folder


def write_checkpoint(run: Path, step: int, score: float | None = None, **more: Any) -> Path:
    """A checkpoint in a run's folder, with a validation score of its own or none."""
    folder = layout.checkpoints_folder(run) / layout.step_name(step)
    folder.mkdir(parents=True)
    save_file({"running_mean": torch.full((4,), float(step))}, folder / "buffers.safetensors")
    save_file({"weight": torch.arange(50.0) + step}, folder / "state-00000.safetensors")
    metrics = {} if score is None else {"step": step, "valid/pearson_log1p": score}
    return seal(folder, state_of(step, metrics=metrics) | more)


def flip(path: Path, place: int = -1) -> None:
    """Turn the lowest bit of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
