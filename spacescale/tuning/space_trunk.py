"""SPACE as a task's trunk: features of a layer for one species, pooled over bins.

Shapes: B sequences, L bp, P positions of the layer, F features.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from spacescale.errors import UserError
from spacescale.genome.dna import N
from spacescale.model.extend import ROUTER, TOKEN
from spacescale.model.space import Space
from spacescale.tuning.batches import Reader
from spacescale.tuning.encoding import Bases
from spacescale.tuning.settings import Pool
from spacescale.tuning.starts import measure_batchnorm
from spacescale.tuning.trunk import Adapted, Trunk, device_of, pooled

ATTENTION, DENSE = ["to_q", "to_k", "to_v", "to_out"], ["moe.input", "moe.output"]
ADAPTED_OF_EXPERTS = ("w1", "w2")
PREDICTING = ("heads.", "decoder.")  # what `Space.embed` does not use


class SpaceTrunk(Trunk):
    """The sequence stands alone, as in the paper's fine-tuning.

    There is no genome around it, no window of the pretraining's length. What is pooled are the
    positions up to that of its last known base.
    """

    name: ClassVar[str] = "space"

    def __init__(
        self,
        space: Space,
        species: str,
        layer: str = "pointwise",
        pool: Pool = "mean",
        is_new: bool = False,
    ):
        """is_new: whether pretraining knew nothing of the species, whose token and gates learn."""
        self.module: Space = space
        self.species, self.layer, self.pool = species, layer, pool
        self.unused = behind(space, layer)
        if is_new:
            self.taught = _of_species(space, self.unused)
        one_bin = torch.zeros(1, space.config.bin_size, dtype=torch.uint8)
        with torch.no_grad():
            was_training = space.training
            self.width = space.eval().embed(one_bin.to(device_of(space)), species, layer).shape[-1]
            space.train(was_training)

    @property
    def facts(self) -> dict[str, Any]:
        """Shape, species and layer."""
        return {"model": self.module.config, "species": self.species, "layer": self.layer}

    def encoding(self, lengths: Collection[int], live_batchnorm: bool) -> Bases:
        """Whole bins, or as they are where all are as long."""
        bin_size, longest = self.module.config.bin_size, max(lengths)
        if len(lengths) == 1:
            return Bases(bin_size, as_is=longest)
        return Bases(bin_size, least=-(-longest // bin_size) * bin_size if live_batchnorm else 0)

    def features(self, rows: Tensor) -> Tensor:
        """Codes (B, L) uint8 → (B, F)."""
        found = self.module.embed(rows, self.species, self.layer)
        number, length = found.shape[1], rows.shape[1]
        # A sequence ends with its last known base: what fills it up is not pooled.
        place = torch.arange(1, length + 1, device=rows.device)
        end = torch.where(rows < N, place, 1).amax(1)  # (B,)
        used = -(-end * number // length)
        return pooled(found, torch.arange(number, device=rows.device) < used[:, None], self.pool)

    def adapted(self) -> Adapted:
        """Attention, and experts or the network in their place, of all blocks."""
        require_adaptable(self.module, self.layer)
        experts = [
            name
            for name, _ in self.module.named_parameters()
            if name.startswith("transformer.") and name.split(".")[-1] in ADAPTED_OF_EXPERTS
        ]
        return Adapted(ATTENTION if experts else [*ATTENTION, *DENSE], experts)

    def measure_statistics(self, reader: Reader) -> None:
        """BatchNorm's: without them fresh weights would hardly tell sequences apart."""
        measure_batchnorm(self.module, self.species, reader)


def behind(space: Space, layer: str) -> tuple[str, ...]:
    """With what the names of parameters begin on which features of a layer do not depend."""
    layers = space.layers
    later = [f"{name}." for name in layers[layers.index(layer) + 1 :]]
    token = () if _sees_species(layer) else (TOKEN,)
    return (*later, *token, *PREDICTING)


def require_adaptable(space: Space, layer: str) -> None:
    """Raise UserError for a layer before all that adapters stand beside."""
    if not _sees_species(layer):
        fitting = [name for name in space.layers if _sees_species(name)]
        raise UserError(
            f"--layer {layer}: --mode lora changes the transformer alone, which lies behind it; "
            f"expected one of {', '.join(fitting)}, or --mode full or head"
        )


def require_taught(space: Space, species: str, layer: str, option: str) -> None:
    """Raise UserError where features of a layer rest on no token and gates of a new species.

    option: that makes no sense then, with its value.
    """
    if species in space.species:
        raise UserError(
            f"{option} is for a --species that the weights do not know, which learns a token and "
            f"gates of its own; they know {', '.join(space.species)}"
        )
    if not _sees_species(layer):
        raise UserError(
            f"{option}: --layer {layer} lies before the transformer, which alone has a token and "
            "gates of the species"
        )


def _sees_species(layer: str) -> bool:
    """Whether a layer is of the transformer or behind it."""
    return layer.startswith(("transformer.", "pointwise"))


def _of_species(space: Space, unused: tuple[str, ...]) -> frozenset[str]:
    """Names of parameters with a row for each species: its token, its gates."""
    return frozenset(
        name
        for name, _ in space.named_parameters()
        if (name == TOKEN or ROUTER in name) and not name.startswith(unused)
    )
