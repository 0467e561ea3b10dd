"""Weights of Enformer, as enformer-pytorch stores them, into ours: as they are, or upcycled.

Upcycling (Komatsuzaki et al. 2023, arXiv 2212.05055) starts a mixture of experts from a dense
model: every expert is a copy of its feed-forward network, so that whatever the fresh gates
choose, the predictions are the dense model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacescale.checkpoint import key_map
from spacescale.checkpoint.foreign_config import (
    assays_of,
    grouping_of,
    imported_tracks,
    model_config,
    output_heads,
    read_fields,
)
from spacescale.checkpoint.tensor_map import TensorMap
from spacescale.checkpoint.weight_files import (
    read_config,
    read_weights,
    write_imported,
)
from spacescale.errors import UserError
from spacescale.genome.tracks import Track
from spacescale.model.exports import check_weights
from spacescale.model.space import Space, meta_model
from spacescale.presets import PRESETS
from spacescale.space_config import ModelConfig

SHARED_SHAPE = ("dim", "depth", "heads", "attn_dim_key", "num_downsamples", "dim_divisible_by")


def from_enformer(
    weights: Mapping[str, Tensor], config: ModelConfig, source: str
) -> dict[str, Tensor]:
    """Tensors under our names from Enformer's; `config` is dense, without token and decoder.

    Raises UserError naming `source` and a key that is unknown.
    """
    own = {key: t for key, t in weights.items() if not key.startswith(key_map.ENFORMER_ALIASES)}
    return TensorMap(key_map.ENFORMER, config).to_ours(own, source)


def to_enformer(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The reverse of `from_enformer`, without aliases."""
    return TensorMap(key_map.ENFORMER, config).to_theirs(weights)


def enformer_config(
    foreign: Mapping[str, Any], species: Mapping[str, tuple[str, ...]], source: str
) -> ModelConfig:
    """Our configuration of Enformer's `config.json`: the preset `enformer`, with its sizes."""
    values = PRESETS["enformer"]["model"] | read_fields(foreign, key_map.ENFORMER_CONFIG)
    values |= {"species": species, "track_grouping": grouping_of(species)}
    # Left out, the weights still are TensorFlow's, and enformer-pytorch reads them so.
    stored_table = foreign.get("use_tf_gamma") is not False
    values["gamma_scale"] = "feature" if stored_table else "position"
    return model_config(values, key_map.ENFORMER_CONFIG, source)


def upcycle(dense: Mapping[str, Tensor], config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a model of configuration `config` that predicts what the dense one predicts.

    `dense` is under our names, of the same trunk. Species tokens, gates and decoder are fresh,
    drawn with `seed`, but the decoder's last layer is zero, so that it starts by adding nothing.
    With a species token the equal is the dense model that has this token too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = Space(config).state_dict()
    if config.species_num_experts:
        dense = _repeat_over_experts(dense, config)
    assert dense.keys() <= weights.keys()
    weights.update(dense)
    if config.decoder == "moe":
        weights["decoder.experts.w2"].zero_()
        weights["decoder.experts.w3"][..., -config.target_length :] = 0.0
    elif config.decoder == "mlp":
        weights["decoder.output.weight"].zero_()
        weights["decoder.output.bias"].zero_()
    return weights


def _repeat_over_experts(dense: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    weights = dict(dense)
    for block in range(config.depth):
        prefix = f"transformer.{block}.moe."
        w1, b1, w2, b2 = (
            weights.pop(prefix + name)
            for name in ("input.weight", "input.bias", "output.weight", "output.bias")
        )
        one = {"w1": w1, "w2": w2, "w3": torch.cat([b1, b2])[None]}
        for name, tensor in one.items():
            copies = tensor.expand(config.species_num_experts, *tensor.shape)
            weights[f"{prefix}mixture.experts.{name}"] = copies.contiguous()
    return weights


def import_enformer(
    source: Path,
    out: Path,
    targets: Mapping[str, list[Track]] | None = None,
    upcycled: ModelConfig | None = None,
) -> int:
    """Write an Enformer checkpoint's folder as an export that `Space.from_pretrained` reads.

    With `upcycled`, a configuration without species, into that model. `targets` as for
    `import_released`. Returns how many tensors were read. Raises UserError, leaving nothing
    behind, that names the file and the key, setting or table that is wrong.
    """
    foreign = read_config(source)
    place = str(source / "config.json")
    grouping = upcycled.track_grouping if upcycled else "table"
    tracks = imported_tracks(output_heads(foreign, place), targets or {}, grouping, place)
    dense = enformer_config(foreign, assays_of(tracks), place)
    if upcycled:
        _check_same_trunk(upcycled, dense, place)
    read, path = read_weights(source)
    own = {key: t for key, t in read.items() if not key.startswith(key_map.ENFORMER_ALIASES)}
    check_weights(own, to_enformer(meta_model(dense).state_dict(), dense), str(path))
    weights, config = from_enformer(own, dense, str(path)), dense
    if upcycled:
        species = {
            name: getattr(dense, name) for name in ("species", "track_grouping", "gamma_scale")
        }
        config = upcycled.model_copy(update=species)
        weights = upcycle(weights, config)
    origin = {"layout": "enformer", "config": foreign}
    write_imported(out, weights, config, tracks, origin)
    return len(own)


def _check_same_trunk(upcycled: ModelConfig, dense: ModelConfig, source: str) -> None:
    for name in SHARED_SHAPE:
        wanted, found = getattr(upcycled, name), getattr(dense, name)
        if wanted != found:
            raise UserError(f"{source}: {name}={found}; to be upcycled into {name}={wanted}")
