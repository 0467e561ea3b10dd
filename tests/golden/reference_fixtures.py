"""Numbers computed with the released SPACE: found, read, and its settings under our names.

The layout of a fixture is described in data/README.md.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from spacescale.checkpoint.key_map import PROFILE_TYPES
from spacescale.config import LossConfig
from spacescale.presets import RELEASED
from spacescale.space_config import ModelConfig

SPECIES = ("human", "mouse")
FILES = {
    "config.json",
    "weights.safetensors",
    "inputs.safetensors",
    "expected.safetensors",
    "expected.json",
}
SAME_NAME = ("dim", "depth", "heads", "attn_dim_key", "dim_divisible_by", "num_downsamples")


def find_fixtures(root: Path) -> list[Path]:
    """Folders at or below `root` that hold a fixture. Raises ValueError for none, or half a one."""
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        if {"expected.json", "expected.safetensors"}.isdisjoint(files):
            continue
        if missing := FILES.difference(files):
            raise ValueError(f"{folder}: no {', '.join(sorted(missing))}; half a fixture")
        found.append(Path(folder))
    if not found:
        raise ValueError(f"{root}: no fixture in it (a folder with {', '.join(sorted(FILES))})")
    return sorted(found)


@dataclass(frozen=True)
class Reference:
    """One fixture."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]  # of the float32 run
    scalars64: dict[str, Any]  # the same of a float64 run
    zero_gradients: dict[str, list[str]]  # mode → parameters whose gradient is 0 but for rounding

    def codes(self) -> dict[str, Tensor]:
        """Base codes (B, L) of both species; the fixture's one-hot has zero rows for N."""
        one_hot = {name: self.inputs[f"{name}_x"] for name in SPECIES}
        return {
            name: torch.where(x.sum(-1) == 0, 4, x.argmax(-1)).to(torch.uint8)
            for name, x in one_hot.items()
        }

    def targets(self) -> dict[str, Tensor]:
        return {name: self.inputs[f"{name}_labels"] for name in SPECIES}

    def tracks(self, species: str) -> dict[str, list[int]]:
        """Tracks of each profile type, as numbers in head order.

        The released code lists ranges of an order of its own.
        """
        order, ranges = self.config["track_index"][species], self.config["types_index"][species]
        return {kind: order[slice(*ranges[f"{species} {kind}"])] for kind in PROFILE_TYPES}

    def has(self, part: str) -> bool:
        """Whether experts serve this part: species (encoder) or tracks (decoder)."""
        return part in self.config["moe"]

    def model_config(self, **changes: Any) -> ModelConfig:
        released = {key: self.config[key] for key in SAME_NAME} | {
            "species": {name: self._assays(name) for name in SPECIES},
            "seq_length": self.config["window"],
            "target_length": self.config["target_length"],
            "species_num_experts": self.config["species_num_experts"] * self.has("species"),
            "species_top_k": self.config["topk"],
            "decoder": "moe" if self.has("tracks") else "none",
            "tracks_num_experts": self.config["tracks_num_experts"],
            "tracks_top_k": self.config["tracks_topk"],
            "groups_per_type": self.config["gates_per_type"],
            "dropout": self.config["dropout_rate"],
            "attn_dropout": self.config["attn_dropout"],
            "pos_dropout": self.config["pos_dropout"],
        }
        return ModelConfig(**(RELEASED["model"] | released | changes))

    def _assays(self, species: str) -> tuple[str, ...]:
        assays = {
            track: PROFILE_TYPES[kind]
            for kind, tracks in self.tracks(species).items()
            for track in tracks
        }
        return tuple(assays[track] for track in sorted(assays))

    def loss_config(self) -> LossConfig:
        return LossConfig(
            **RELEASED["loss"],
            mi_num_tokens=self.config["num"],
            mi_weight=self.config["MIloss_lambda"],
            z_weight=self.config["zloss_lambda"],
            cv_weight=self.config["cvloss_lambda"],
        )


def read_fixture(folder: Path, name: str) -> Reference:
    expected = json.loads((folder / "expected.json").read_text())
    return Reference(
        name=name,
        config=json.loads((folder / "config.json").read_text()),
        weights=load_file(folder / "weights.safetensors"),
        inputs=load_file(folder / "inputs.safetensors"),
        tensors=load_file(folder / "expected.safetensors"),
        scalars=expected["float32"],
        scalars64=expected["float64"],
        zero_gradients=expected["analytically_zero_gradients"],
    )
