"""Weights and settings of the released SPACE: into ours, and back.

The released layout is the Hugging Face Hub's: `config.json` beside `pytorch_model.bin` or
`model.safetensors`. Its tensors are those of `key_map.RELEASED`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from spacescale.checkpoint import key_map
from spacescale.checkpoint.convert import write_export
from spacescale.checkpoint.foreign_config import (
    assays_of,
    grouping_of,
    imported_tracks,
    model_config,
    output_heads,
    read_fields,
)
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.probe import Agreement
from spacescale.checkpoint.tensor_map import TensorMap
from spacescale.checkpoint.weight_files import (
    PICKLED,
    read_config,
    read_weights,
    write_imported,
)
from spacescale.errors import UserError
from spacescale.files import new_folder, write_text
from spacescale.genome.tracks import Track
from spacescale.metrics.track_scale import PREDICTS
from spacescale.model.exports import (
    check_weights,
    is_export,
    read_export,
    require_no_bases,
)
from spacescale.model.space import meta_model
from spacescale.presets import RELEASED
from spacescale.space_config import ModelConfig

__all__ = [
    "convert_to_released",
    "export_released",
    "from_released",
    "import_released",
    "released_config",
    "released_map",
    "to_released",
    "to_released_config",
]

logger = logging.getLogger(__name__)


def released_map(config: ModelConfig) -> TensorMap:
    """Which released tensors make up which of ours, for a model of this configuration."""
    rows = list(key_map.RELEASED)
    rows += key_map.RELEASED_ROUTED if config.species_num_experts else key_map.RELEASED_DENSE
    if config.decoder == "moe":
        rows += key_map.RELEASED_DECODER
        rows += key_map.RELEASED_UNUSED if config.unused_layer_norm else ()
    return TensorMap(rows, config)


def from_released(
    weights: Mapping[str, Tensor], config: ModelConfig, source: str
) -> dict[str, Tensor]:
    """Tensors under our names from those under released ones, of today or older.

    Moves numbers alone, so it also serves for gradients; `to_released` undoes it bit by bit. What
    is not given is left out. Raises UserError naming `source` and the key for one that is unknown,
    or one that is missing among several that make up a tensor of ours.
    """
    return released_map(config).to_ours(_current_names(weights, source), source)


def to_released(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors under released names (with `model.`) from those under ours, or their gradients.

    What is not given is left out. Raises UserError naming a key that has no place there.
    """
    return released_map(config).to_theirs(weights)


def _current_names(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    current: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = key
        for older, newer in key_map.OLDER_PREFIXES:
            if name.startswith(older):
                name = newer + name.removeprefix(older)
        if name in current:
            raise UserError(f"{source}: unexpected {key}: {name} is given twice")
        current[name] = tensor
    return current


def released_config(
    foreign: Mapping[str, Any],
    species: Mapping[str, tuple[str, ...]] | None = None,
    source: str = "config.json",
) -> ModelConfig:
    """Our configuration of a released `config.json`, with the released conventions.

    `species` holds the assay of each track; by default the released grouping. Raises UserError
    naming `source` and a setting that is wrong.
    """
    if species is None:
        tracks = imported_tracks(output_heads(foreign, source), {}, "released", source)
        species = assays_of(tracks)
    modules = _modules(foreign, source)
    if "tracks" in modules:
        _check_profile_types(species, source)
    values = read_fields(foreign, key_map.RELEASED_CONFIG) | RELEASED["model"]
    values |= {"species": species, "decoder": "moe" if "tracks" in modules else "none"}
    values["groups_per_type"] = key_map.RELEASED_GATES_PER_TYPE
    if "species" not in modules:
        values["species_num_experts"] = 0
    values["track_grouping"] = grouping_of(species)
    values["gamma_scale"] = "feature" if foreign.get("use_tf_gamma") else "position"
    return model_config(values, key_map.RELEASED_CONFIG, source)


def _check_profile_types(species: Mapping[str, tuple[str, ...]], source: str) -> None:
    wanted = set(key_map.PROFILE_TYPES.values())
    if {assay for assays in species.values() for assay in assays} != wanted:
        heads = {name: len(assays) for name, assays in species.items()}
        raise UserError(
            f"{source}: output_heads={heads}: not the published tracks; give targets tables whose "
            f"assays are {', '.join(sorted(wanted))}"
        )


def _modules(foreign: Mapping[str, Any], source: str) -> list[str]:
    """Which mixtures of experts there are: a list, or its names joined by `_` (released)."""
    moe = foreign.get("moe", [])
    if isinstance(moe, str):
        moe = moe.split("_")
    known = {"species", "tracks", "baseline", "ffn"}
    if not isinstance(moe, list) or not set(map(str, moe)) <= known:
        raise UserError(f"{source}: moe={moe!r}: expected some of {', '.join(sorted(known))}")
    return moe


def to_released_config(config: ModelConfig, original: Mapping[str, Any]) -> dict[str, Any]:
    """A released `config.json` of our configuration, over the one it was imported from, if any.

    Where the original leaves a setting to the released default, so does the result.
    """
    foreign = dict(original)
    for ours, theirs, default in key_map.RELEASED_CONFIG:
        value = getattr(config, ours)
        if ours == "species_num_experts" and not value:
            continue  # there `moe` says so
        if theirs in original or not original or value != default:
            foreign[theirs] = value
    foreign["output_heads"] = {name: len(assays) for name, assays in config.species.items()}
    modules = ["species"] * bool(config.species_num_experts)
    modules += ["tracks"] * (config.decoder == "moe")
    if not original:
        foreign["moe"] = modules or ["baseline"]
        foreign["use_tf_gamma"] = config.gamma_scale == "feature"
    return foreign


def import_released(
    source: Path, out: Path, targets: Mapping[str, list[Track]] | None = None
) -> int:
    """Write a released checkpoint's folder as an export that `Space.from_pretrained` reads.

    `targets` are the tables of its tracks, by species, which the checkpoint does not hold; without
    one the tracks are numbered. Returns how many tensors were read. Raises UserError, leaving
    nothing behind, that names the file and the key, setting or table that is wrong.
    """
    foreign = read_config(source)
    place = str(source / "config.json")
    tracks = imported_tracks(output_heads(foreign, place), targets or {}, "released", place)
    config = released_config(foreign, assays_of(tracks), place)
    expected = to_released(meta_model(config).state_dict(), config)
    weights, path = read_weights(source)
    current = _current_names(weights, str(path))
    check_weights(current, expected, str(path))
    origin = {"layout": "released", "config": foreign}
    write_imported(out, from_released(current, config, str(path)), config, tracks, origin)
    return len(weights)


def convert_to_released(source: Path, out: Path) -> Agreement | None:
    """`export_released` of a run (its best checkpoint), a checkpoint or an export.

    Returns and raises as `checkpoint.convert`; of an export there is no agreement.
    """
    if is_export(source):
        export_released(source, out)
        return None
    checkpoint = find_best(source)
    if checkpoint is None:
        raise UserError(f"{source}: no run folder, checkpoint or export")
    with new_folder(out) as folder, TemporaryDirectory(dir=folder) as between:
        agreement = write_export(checkpoint, Path(between))
        _write_released(Path(between), folder, checkpoint)
    return agreement


def export_released(source: Path, out: Path) -> int:
    """Write an export of ours as a folder of the released layout; returns the number of tensors.

    Of weights that were imported the tensors come back bit by bit. Raises UserError, leaving
    nothing behind, for weights that are damaged or have no place in that layout.
    """
    with new_folder(out) as folder:
        return _write_released(source, folder, source)


def _write_released(export: Path, folder: Path, source: Path) -> int:
    """source: what the export was made from, for messages."""
    require_no_bases(export)
    payload = read_export(export)
    config = model_config(payload["model"], (), str(export / "config.json"))
    _check_expressible(config, source)
    if payload["track_scale"] != "none":
        logger.warning("%s: predicts %s", source, PREDICTS[payload["track_scale"]])
    weights, path = read_weights(export)
    check_weights(weights, meta_model(config).state_dict(), str(path))
    origin = payload.get("origin", {})
    original = origin["config"] if origin.get("layout") == "released" else {}
    text = json.dumps(to_released_config(config, original), indent=2, sort_keys=True)
    tensors = _with_unused(to_released(weights, config), config)
    write_text(folder / "config.json", text + "\n")
    torch.save(tensors, folder / PICKLED)
    return len(tensors)


def _check_expressible(config: ModelConfig, source: Path) -> None:
    """Refuse what the released code could not compute from its own layout."""
    wrong = None
    if not all(config.species.values()):
        trackless = ", ".join(name for name, tracks in config.species.items() if not tracks)
        wrong = f"{trackless} without tracks: the released layout has a head of each species"
    elif not config.species_token:
        wrong = "model.species_token=False: the released layout needs species tokens"
    elif config.stem_channels != config.dim // 2:
        wrong = f"model.stem_dim={config.stem_dim}: the released stem has dim / 2 channels"
    elif config.dilated_convs:
        wrong = f"model.dilated_convs={config.dilated_convs}: the released trunk has none"
    elif config.own_experts:
        wrong = f"model.own_experts={config.own_experts}: the released layout shares all experts"
    elif config.species_gates == "shared":
        wrong = "model.species_gates=shared: the released layout has a gate of each species"
    elif config.decoder == "mlp":
        wrong = "model.decoder=mlp: the released layout knows moe and none"
    elif config.decoder == "moe" and grouping_of(config.species) != "released":
        wrong = "its tracks are not grouped as released (model.track_grouping=released)"
    elif config.decoder == "moe" and config.groups_per_type != key_map.RELEASED_GATES_PER_TYPE:
        wrong = (
            f"model.groups_per_type={config.groups_per_type}: the released layout has "
            f"{key_map.RELEASED_GATES_PER_TYPE}"
        )
    elif config.decoder == "moe" and config.group_weights != "mean_of_softmaxes":
        wrong = f"model.group_weights={config.group_weights}: released is mean_of_softmaxes"
    if wrong:
        raise UserError(f"{source}: {wrong}")


def _with_unused(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Add the LayerNorm that the released layout holds and nothing reads, if ours has none."""
    if config.decoder != "moe" or config.unused_layer_norm:
        return weights
    bins = config.target_length
    unused = {"weight": torch.ones(bins), "bias": torch.zeros(bins)}
    return weights | {f"model.tracks.layer_norm.{name}": t for name, t in unused.items()}
