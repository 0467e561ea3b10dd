"""By what weights are known again, and what a run keeps of those that it begins with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import find_best
from spacescale.errors import UserError
from spacescale.model.exports import holds_encoder, is_export, read_encoder_export, read_export


class _Told(NamedTuple):
    """What weights tell. trained: state of a checkpoint or record of an export, alike in names."""

    trained: Mapping[str, Any]
    model: Mapping[str, Any]
    reads_anywhere: bool


def digest_of_weights(path: Path) -> str | None:
    """The same for a run, its checkpoint and exports of it; None where nothing is known of data.

    Of the step, validation's scores at it, and data and splits; nothing is known of the data of
    released weights. Raises UserError where `path` is none of them.
    """
    return digest_of(_read(path).trained)


def digest_of(trained: Mapping[str, Any]) -> str | None:
    """trained: state of a checkpoint, or the record of an export, which keep these alike."""
    if not any(trained["data_manifests"].values()):
        return None
    kept = [trained["step"], trained["metrics"], trained["data_manifests"]]
    text = json.dumps([*kept, layout.data_splits(trained)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def beginning_of(named: Path, weights: Path) -> dict[str, Any]:
    """What a run keeps of the weights that it begins with, as `Beginning` has it.

    named: as the user did. weights: the checkpoint or export that this was. What they themselves
    began with is kept as far as they tell. Raises UserError where they cannot be read.
    """
    trained, model, reads_anywhere = _read(weights)
    return {
        "path": str(named),
        "digest": digest_of(trained),
        "step": trained["step"],
        "seq_length": model.get("seq_length"),
        "reads_anywhere": reads_anywhere,
        "data_manifests": trained["data_manifests"],
        "data_splits": layout.data_splits(trained),
        **layout.beginning(trained),
    }


def _read(path: Path) -> _Told:
    if is_export(path):
        payload = (read_encoder_export if holds_encoder(path) else read_export)(path)
        trained = payload["trained"]
        return _Told(trained, payload["model"], trained.get("reads_anywhere", False))
    checkpoint = find_best(path)
    if checkpoint is None:
        raise UserError(f"{path}: neither a run folder, a checkpoint nor an export")
    state = layout.read_state(checkpoint)
    config = layout.read_config(checkpoint, state)
    return _Told(state, state["config"]["model"], config.reads_anywhere)
