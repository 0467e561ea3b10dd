"""Teach a trained model one more species.

Shapes: S species, P profile types, G groups per type, E experts, D dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spacescale.config import ModelConfig
from spacescale.model.space import Space


def add_species(
    model: Space, name: str, tracks: Sequence[str] = (), like: str | None = None
) -> Space:
    """Return a model that also knows species `name`; what it knew stays the same.

    `tracks` holds the profile type (assay) of each track to predict; a species without any gets
    embeddings alone. The new token and gates start as those
    of the species `like`, or as the mean over all species; head and gates of profile types that
    are new start afresh. Raises ValueError for a name that is taken or an unknown `like`.
    """
    known = list(model.species)
    if name in known:
        raise ValueError(f"species {name!r}: the model knows it already")
    if like is not None and like not in known:
        raise ValueError(f"like={like!r}: this model knows {known}")
    values = model.config.model_dump()
    values["species"][name] = tuple(tracks)
    extended = Space(ModelConfig.model_validate(values))
    old_types = [extended.config.profile_types.index(t) for t in model.config.profile_types]
    row = known.index(like) if like else None
    weights = extended.state_dict()
    for key, old in model.state_dict().items():
        if key == "species_token.weight" or ".moe.router." in key:
            weights[key] = _with_row(old, row)
        elif weights[key].shape == old.shape:
            weights[key] = old
        else:
            _place_types(weights[key], old, len(extended.config.profile_types), old_types)
    extended.load_state_dict(weights)
    return extended.to(next(model.parameters())).train(model.training)


def _with_row(stacked: Tensor, row: int | None) -> Tensor:
    """(S, …) → (S + 1, …), the last row a copy of `row` or the mean."""
    new = stacked.mean(0) if row is None else stacked[row]
    return torch.cat([stacked, new[None]])


def _place_types(fresh: Tensor, old: Tensor, num_types: int, old_types: list[int]) -> None:
    """Write rows (types × …, …) of the old profile types to their places among the new."""
    fresh.unflatten(0, (num_types, -1))[old_types] = old.unflatten(0, (len(old_types), -1))
