"""Teach a trained model one more species.

Shapes: S species, P profile types, G groups per type, E experts, D dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spacescale.model.space import Space
from spacescale.space_config import ModelConfig

EXPERTS = ".moe.mixture.experts."  # in the names of tensors whose first dimension is that of E
ROUTER = ".moe.router."  # and of those that have rows of S and columns of E
TOKEN = "species_token.weight"  # which has rows of S


def add_species(
    model: Space,
    name: str,
    tracks: Sequence[str] = (),
    like: str | None = None,
    own_experts: int = 0,
) -> Space:
    """Return a model that also knows species `name`; what it knew stays the same.

    `tracks` holds the profile type (assay) of each track to predict; a species without any gets
    embeddings alone. The new token and gates start as those
    of the species `like`, or as the mean over all species; head and gates of profile types that
    are new start afresh. `own_experts`: so many of each block's experts are added for the new
    species alone, as `origin_of_experts` says. Raises ValueError for a name that is taken, an
    unknown `like`, or own experts of a model that has no experts.
    """
    known = list(model.species)
    if name in known:
        raise ValueError(f"species {name!r}: the model knows it already")
    if like is not None and like not in known:
        raise ValueError(f"like={like!r}: this model knows {known}")
    values = model.config.model_dump()
    values["species"][name] = tuple(tracks)
    if own_experts:
        values["own_experts"][name] = own_experts
        values["species_num_experts"] += own_experts
    extended = Space(ModelConfig.model_validate(values))
    old_types = [extended.config.profile_types.index(t) for t in model.config.profile_types]
    row = known.index(like) if like else None
    origin = origin_of_experts(extended.config, model.config)
    weights = extended.state_dict()
    for key, old in model.state_dict().items():
        if key == TOKEN:
            weights[key] = _with_row(old, row)
        elif ROUTER in key:
            weights[key] = _with_row(old[:, origin], row)
        elif EXPERTS in key:
            weights[key] = old[origin]
        elif weights[key].shape == old.shape:
            weights[key] = old
        else:
            _place_types(weights[key], old, len(extended.config.profile_types), old_types)
    extended.load_state_dict(weights)
    return extended.to(next(model.parameters())).train(model.training)


def origin_of_experts(new: ModelConfig, old: ModelConfig) -> list[int]:
    """For each of a block's experts in `new`, that of `old` with whose weights and gates it starts.

    Shared experts are the same ones, and so are a species' own, as far as `old` has them. A
    species' other own experts start as copies of the shared ones, the first of the first: so the
    species begins with what is known, not with noise, and needs no data to say which. Copies
    beyond the number of the shared ones begin again with the first.
    """
    of_old = {(owner, place): e for e, (owner, place) in enumerate(_places(old))}
    return [
        of_old.get((owner, place), place % new.num_shared_experts) for owner, place in _places(new)
    ]


def _places(config: ModelConfig) -> list[tuple[str | None, int]]:
    """Each of a block's experts as its owner and its place among that one's."""
    owners = config.expert_owners
    return [(owner, owners[:e].count(owner)) for e, owner in enumerate(owners)]


def _with_row(stacked: Tensor, row: int | None) -> Tensor:
    """(S, …) → (S + 1, …), the last row a copy of `row` or the mean."""
    new = stacked.mean(0) if row is None else stacked[row]
    return torch.cat([stacked, new[None]])


def _place_types(fresh: Tensor, old: Tensor, num_types: int, old_types: list[int]) -> None:
    """Write rows (types × …, …) of the old profile types to their places among the new."""
    fresh.unflatten(0, (num_types, -1))[old_types] = old.unflatten(0, (len(old_types), -1))
