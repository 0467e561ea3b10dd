"""The weights that a fine-tuning begins with: pretrained ones, and those it is held against."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spacescale.errors import UserError
from spacescale.model.extend import add_species
from spacescale.model.layers import BatchNorm
from spacescale.model.space import Space
from spacescale.overrides import nearest
from spacescale.tuning.batches import Reader

Start = Literal["pretrained", "random"]
SEQUENCES_MEASURED, BASES_MEASURED = 512, 2**19  # at the most; 1,024 bp of each


def with_species(
    space: Space, species: str | None, like: str | None, source: str, task: str = "the task"
) -> str:
    """The species whose token and gates a task is learnt with, of those that a model knows.

    task: as messages name it. Raises UserError where there is a choice and none is made, for an
    unknown one, or for a `like` that would change nothing.
    """
    known = list(space.species)
    if like is not None and (species is None or species in known):
        what = "is for a --species that they do not know" if species is None else "changes nothing"
        raise UserError(
            f"--like {like} {what}: {source} knows {', '.join(known)}; expected --species with the "
            "name of a new one, or no --like"
        )
    if species is None and len(known) == 1:
        return known[0]
    if species is None:
        raise UserError(f"{source} knows {', '.join(known)}: say which one {task} is of")
    if species not in known and like is None:
        raise UserError(
            f"{source}: no species {species!r}{nearest(species, known)}; it knows "
            f"{', '.join(known)}. A new one begins as one of them: --like SPECIES"
        )
    if like is not None and like not in known:
        raise UserError(f"--like {like}: {source} knows {', '.join(known)}")
    return species


def starting_space(space: Space, species: str, like: str | None, start: Start, seed: int) -> Space:
    """A model of its own to train: the weights of pretraining, or fresh ones of the same shape.

    like: where the model does not know the species, that as which its token and gates begin.
    """
    if species not in space.species:
        space = add_species(space, species, like=like)
    if start == "pretrained":
        return copy.deepcopy(space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Space(space.config)


@torch.no_grad()
def measure_batchnorm(space: Space, species: str, reader: Reader) -> None:
    """Take BatchNorm's statistics from sequences of the task, as fresh weights have none.

    Without them what is frozen at random would hardly tell sequences apart, and be no baseline.
    """
    layers = [module for module in space.modules() if isinstance(module, BatchNorm)]
    momentum = [layer.momentum for layer in layers]
    space.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    space.embed(_some_sequences(reader), species)
    for layer, value in zip(layers, momentum, strict=True):
        layer.momentum = value
    space.eval()


def _some_sequences(reader: Reader) -> Tensor:
    """Sequences of one size, from all over a split, that one pass takes: uint8 (B, L).

    One pass, as each layer's statistics are of what the layers before it make with their own.
    """
    number = len(reader.examples)
    rows = np.linspace(0, number - 1, min(SEQUENCES_MEASURED, number)).astype(int)
    found = max(reader.batch(rows).groups, key=len)
    fitting = max(1, BASES_MEASURED // found.shape[1])
    if len(found) <= fitting:
        return found
    return found[torch.linspace(0, len(found) - 1, fitting).long()]
