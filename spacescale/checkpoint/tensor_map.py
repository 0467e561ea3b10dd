"""Carry named tensors between our layout and another's, by the rows of a key map.

Every tensor of ours is made of one or several of theirs by moving numbers alone: both ways are
linear, keep the dtype, and undo each other bit by bit. So they also serve for gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from string import Formatter

import torch
from torch import Tensor

from spacescale.checkpoint import key_map
from spacescale.checkpoint.key_map import Join, Row
from spacescale.errors import UserError
from spacescale.space_config import ModelConfig


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and those of theirs that make it up."""

    ours: str
    theirs: tuple[str, ...]
    join: Join


class TensorMap:
    """A key map, written out for one model."""

    def __init__(self, rows: Sequence[Row], config: ModelConfig):
        """Raises UserError if a row speaks of profile types that theirs does not know."""
        self.gates = _gate_order(config) if any(row.join == "gates" for row in rows) else []
        self.entries = list(_entries(rows, config, self.gates))

    def to_ours(self, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Tensors under our names from those under theirs.

        Tensors of ours of which nothing is given are left out. Raises UserError naming a key that
        is unknown, or the missing part of a tensor that several make up.
        """
        ours: dict[str, Tensor] = {}
        known: set[str] = set()
        for entry in self.entries:
            known.update(entry.theirs)
            given = [key for key in entry.theirs if key in weights]
            if not given:
                continue
            if absent := [key for key in entry.theirs if key not in weights]:
                raise UserError(f"{source}: missing {absent[0]}")
            ours[entry.ours] = _join(entry.join, [weights[key] for key in given], self.gates)
        if unknown := [key for key in weights if key not in known]:
            raise UserError(f"{source}: unexpected {unknown[0]}")
        return ours

    def to_theirs(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their names from those under ours. Raises UserError for an unknown key."""
        theirs: dict[str, Tensor] = {}
        known: set[str] = set()
        for entry in self.entries:
            known.add(entry.ours)
            if entry.ours in weights:
                parts = _split(entry.join, weights[entry.ours], len(entry.theirs), self.gates)
                theirs.update(zip(entry.theirs, parts, strict=True))
        if unknown := [key for key in weights if key not in known]:
            raise UserError(f"{unknown[0]}: has no place in the other layout")
        return theirs


def _gate_order(config: ModelConfig) -> list[int]:
    """Their number of each of our decoder's gates; our profile types are sorted, theirs are not."""
    theirs = list(key_map.PROFILE_TYPES.values())
    if set(config.profile_types) != set(theirs):
        raise UserError(
            f"profile types {', '.join(config.profile_types)}; the released layout has exactly "
            f"{', '.join(sorted(theirs))}"
        )
    groups = config.groups_per_type
    return [theirs.index(t) * groups + g for t in config.profile_types for g in range(groups)]


def _entries(rows: Sequence[Row], config: ModelConfig, gates: list[int]) -> Iterator[Entry]:
    names = {assay: name for name, assay in key_map.PROFILE_TYPES.items()}
    shared = {
        "affine": key_map.AFFINE,
        "batchnorm": key_map.BATCHNORM,
        "level": range(config.num_downsamples - 1),
        "block": range(config.depth),
        "species": config.species,
    }
    parts = {
        "each_species": config.species,
        "each_type": [names[assay] for assay in config.profile_types if assay in names],
        "each_gate": gates,
        "each_projection": key_map.PROJECTIONS,
    }
    for row in rows:
        fields = _fields(row.ours)
        several = [field for field in _fields(row.theirs) if field not in fields]
        for values in product(*(shared[field] for field in fields)):
            bound = dict(zip(fields, values, strict=True))
            theirs = tuple(
                row.theirs.format(**bound, **dict(zip(several, part, strict=True)))
                for part in product(*(parts[field] for field in several))
            )
            yield Entry(row.ours.format(**bound), theirs, row.join)


def _fields(template: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(template) if field]


def _join(join: Join, parts: list[Tensor], gates: list[int]) -> Tensor:
    match join:
        case "same":
            return parts[0]
        case "pool":
            return parts[0].squeeze(-1)  # (out, in, 1, 1) → (out, in, 1)
        case "experts":
            return parts[0].transpose(1, 2).contiguous()  # (E, in, out) → (E, out, in)
        case "biases":
            return torch.cat(parts, dim=1)[:, None]  # (E, 2d), (E, d) → (E, 1, 3d)
        case "stack":
            return torch.stack(parts)
        case "rows":
            return torch.cat(parts).squeeze(1)  # (1, 1, d) each → (rows, d)
        case "gates":
            return torch.cat(parts)
        case "gate_rows":
            return parts[0][gates]


def _split(join: Join, tensor: Tensor, count: int, gates: list[int]) -> list[Tensor]:
    """The parts that `_join` made `tensor` of; where they are several, each in its own memory."""
    match join:
        case "same":
            return [tensor]
        case "pool":
            return [tensor.unsqueeze(-1)]
        case "experts":
            return [tensor.transpose(1, 2).contiguous()]
        case "biases":
            width = tensor.shape[2] // 3  # every expert is d → 2d → d
            return [part.clone() for part in tensor.squeeze(1).split([2 * width, width], dim=1)]
        case "stack":
            return [part.clone() for part in tensor]
        case "rows":
            return [part[None].clone() for part in tensor.split(1)]
        case "gates":
            return [part.clone() for part in tensor.chunk(count)]
        case "gate_rows":
            return [tensor[torch.tensor(gates, device=tensor.device).argsort()]]
