"""Export a checkpoint as plain PyTorch weights, proved equal before it is called done."""

from __future__ import annotations

import shutil
from pathlib import Path

from spacescale import __version__
from spacescale.checkpoint import layout
from spacescale.checkpoint.consolidate import load_model
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.probe import FILE as PROBE
from spacescale.checkpoint.probe import Agreement, compare_with_probe
from spacescale.checkpoint.weight_files import save_weights
from spacescale.errors import UserError
from spacescale.files import new_folder, write_json
from spacescale.model.exports import EXPORT_FORMAT, EXPORT_VERSION
from spacescale.objectives import Objective, objective_of


def convert(source: Path, out: Path, whole: bool = False) -> Agreement | None:
    """Write `model.safetensors`, `config.json` and attachments of a checkpoint to `out`.

    `source` is a checkpoint or a run folder (then its best checkpoint). The folder is first
    written beside `out`, loaded back, and its predictions for the checkpoint's probe compared with
    those the distributed model made when it was saved; returns how near they are, or None where
    the checkpoint holds no probe: then only what was stored is known to be whole and finite.
    whole: keep also what serves training alone (`Objective.for_use`). Raises UserError, leaving
    nothing behind, if they differ or `out` exists.
    """
    checkpoint = find_best(source)
    if checkpoint is None:
        raise UserError(f"{source}: no checkpoint here")
    with new_folder(out) as partial:
        return write_export(checkpoint, partial, whole)


def write_export(checkpoint: Path, folder: Path, whole: bool = False) -> Agreement | None:
    """Write an export into an empty folder, and hold it against the checkpoint's probe.

    Returns and raises as `convert`.
    """
    objective = _write_files(checkpoint, folder, whole)
    model = objective.load_export(folder)
    if not (checkpoint / PROBE).is_file():
        return None
    return compare_with_probe(checkpoint / PROBE, model, objective, whole)


def _write_files(checkpoint: Path, folder: Path, whole: bool) -> Objective:
    model, config = load_model(checkpoint)
    objective = objective_of(config)
    for_use = objective.for_use()
    if whole and for_use is objective:
        raise UserError(
            f"{checkpoint}: objective={config.objective} has nothing that serves training alone; "
            "convert it without --with-bases"
        )
    objective = objective if whole else for_use
    state = layout.read_state(checkpoint)
    kept = objective.build_on_meta().state_dict()
    save_weights({n: tensor for n, tensor in model.state_dict().items() if n in kept}, folder)
    payload = {
        "format": EXPORT_FORMAT,
        "format_version": EXPORT_VERSION,
        **objective.describe(),
        "trained": {
            "step": state["step"],
            "reads_anywhere": config.reads_anywhere,
            "loss": config.loss.model_dump(mode="json"),
            "metrics": state["metrics"],
            "data_manifests": state["data_manifests"],
            "data_splits": layout.data_splits(state),
            "data_transforms": state.get("data_transforms", {}),
            "data_contigs": layout.data_contigs(state),
            **layout.beginning(state),
            "versions": state["versions"],
            "exported_with": __version__,
        },
    }
    write_json(folder / "config.json", payload, indent=1)
    for attached in objective.attachments:
        shutil.copytree(checkpoint / attached, folder / attached)
    return objective
