"""Start a run from weights that exist: what the two models share is taken over by its name.

Species are matched by name, tracks by identifier, profile types by assay. Shapes: S species, P
profile types, D dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from spacescale.config import Config, TrackScaleName, describe_errors
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.genome.tracks import Track
from spacescale.metrics.track_scale import PREDICTS
from spacescale.model.extend import EXPERTS, ROUTER, origin_of_experts
from spacescale.model.hybrid import OWN
from spacescale.model.space import Space
from spacescale.overrides import nearest
from spacescale.predict.trained_model import TrainedModel
from spacescale.space_config import ModelConfig

TRUNK = ("stem.", "conv_tower.", "dilated.", "transformer.", "pointwise.")
BY_TYPE = ("from_sequence", "from_species", "gates", "type_embedding")  # of the decoder


def has_rows_of_species(key: str) -> bool:
    """Whether a tensor's first dimension is that of species."""
    return key == "species_token.weight" or ROUTER in key


def has_rows_of_experts(key: str) -> bool:
    """Whether a tensor's first dimension is that of a block's experts."""
    return EXPERTS in key


def has_rows_of_types(key: str) -> bool:
    """Whether a tensor's first dimension is that of profile types, of several rows each."""
    part, _, rest = key.partition(".")
    return part == "decoder" and rest.split(".")[0] in BY_TYPE


@dataclass(frozen=True)
class Taken:
    """What came of weights: what starts afresh, and what was left over, each as words."""

    source: Path
    scale: TrackScaleName
    fresh: list[str]
    left_over: list[str]

    def lines(self, scale: TrackScaleName) -> list[str]:
        """What to tell of it. scale: of this run's predictions."""
        lines = [
            f"weights of {self.source}",
            f"new, and initialised: {'; '.join(self.fresh) or 'nothing'}",
            f"left over: {'; '.join(self.left_over) or 'nothing'}",
        ]
        if scale != self.scale:
            lines.append(
                f"its heads predicted {PREDICTS[self.scale]}; this run's predict {PREDICTS[scale]} "
                "(loss.track_scale)"
            )
        return lines


def with_own_experts(config: Config, old: TrainedModel, count: int) -> Config:
    """Give each new species `count` experts of its own in each block, beside those that are shared.

    config: of a run that is to start from `old`, with its species. Species that `old` knows keep
    the own experts that they have there. Raises UserError where no species is new, or the encoder
    has no experts.
    """
    model, known = config.space, old.model.config
    new = [name for name in model.species if name not in known.species]
    if not new:
        raise UserError(f"--own-experts {count}: {old.source} knows all species of this run")
    own = {name: n for name, n in known.own_experts.items() if name in model.species}
    own |= model.own_experts
    own |= {name: count for name in new if name not in own}
    total = model.num_shared_experts + sum(own.values()) if model.species_num_experts else 0
    changed = model.model_dump() | {"own_experts": own, "species_num_experts": total}
    try:
        return config.model_copy(update={"model": ModelConfig.model_validate(changed)})
    except ValidationError as error:
        raise UserError(f"--own-experts {count}: {describe_errors(error)}") from None


def start_from(
    model: nn.Module,
    tracks: Mapping[str, Sequence[Track]],
    old: TrainedModel,
    like: str | None = None,
) -> Taken:
    """Give a fresh Space what it shares with a trained one.

    A new species' token and gates start as those of the species `like`, or as the mean of those
    that are known; its own experts, and its gates of them, as `origin_of_experts` says. Its head,
    tracks that are new and the decoder's gates of profile types that are new stay as they are
    initialised. Raises UserError where the trunks differ in shape, or `like` is unknown or without
    use.
    """
    assert isinstance(model, Space)
    _require_same_trunk(model, old)
    if like is not None:
        _require_use(like, model, old)
    fresh: list[str] = []
    state, known = model.state_dict(), old.model.state_dict()
    origin = origin_of_experts(model.config, old.model.config)
    for key, tensor in state.items():
        if has_rows_of_species(key):
            rows = known[key][:, origin] if ROUTER in key else known[key]
            _place_species(tensor, rows, model.species, old.model.species, like)
        elif has_rows_of_experts(key):
            tensor.copy_(known[key][origin])
        elif key.startswith("heads."):
            _place_tracks(tensor, known.get(key), *_identifiers(key.split(".")[1], tracks, old))
        elif key.startswith("decoder."):
            if not _place_decoder(key, tensor, known.get(key), model, old.model):
                fresh.append(key)
        elif key.startswith(OWN):
            _place_own(tensor, known.get(key))
        else:
            tensor.copy_(known[key])
    return Taken(
        old.source,
        old.scale_name,
        fresh + _new(model, tracks, old, like),
        _left_over(model, tracks, old),
    )


def _require_same_trunk(model: Space, old: TrainedModel) -> None:
    known = old.model.state_dict()
    for key, tensor in model.state_dict().items():
        if not key.startswith(TRUNK) or ROUTER in key:
            continue
        found = _shared_shape(key, known[key], old.model) if key in known else "none"
        if found != (wanted := _shared_shape(key, tensor, model)):
            raise UserError(
                f"--init {old.source}: {key} is {found}, and {wanted} in this run: "
                "only models of one shape can start from each other (model.dim, stem_dim, depth, "
                "num_downsamples, species_num_experts …)"
            )


def _shared_shape(key: str, tensor: Tensor, model: Space) -> tuple[int, ...]:
    """A tensor's shape without the experts that single species have to themselves."""
    experts = [model.config.num_shared_experts] if has_rows_of_experts(key) else tensor.shape[:1]
    return (*experts, *tensor.shape[1:])


def _require_use(like: str, model: Space, old: TrainedModel) -> None:
    known = list(old.model.species)
    if like not in known:
        raise UserError(
            f"--like {like}{nearest(like, known)}: {old.source} knows {', '.join(known)}"
        )
    if set(model.species) <= set(known):
        raise UserError(f"--like {like}: {old.source} knows all species of this run")


def _place_species(
    new: Tensor, old: Tensor, names: Sequence[str], known: Sequence[str], like: str | None
) -> None:
    """(S', …) ← (S, …): rows of the same name; for the others that of `like`, or the mean."""
    place = {name: row for row, name in enumerate(known)}
    for row, name in enumerate(names):
        found = place.get(name, place.get(like or ""))
        new[row] = old.mean(0) if found is None else old[found]


def _identifiers(
    species: str, tracks: Mapping[str, Sequence[Track]], old: TrainedModel
) -> tuple[list[str], list[str]]:
    return (
        [track.identifier for track in tracks.get(species, [])],
        [track.identifier for track in old.tracks.get(species, [])],
    )


def _place_tracks(
    new: Tensor, old: Tensor | None, names: Sequence[str], known: Sequence[str]
) -> None:
    """Rows of a head, (T', …) ← (T, …), by the tracks' identifiers.

    Where several tracks have the same one: the first of the first, the second of the second.
    """
    if old is None:
        return
    place = {name: row for row, name in enumerate(_each_once(known))}
    for row, name in enumerate(_each_once(names)):
        if name in place:
            new[row] = old[place[name]]


def _each_once(names: Sequence[str]) -> list[tuple[str, int]]:
    """Names, and how many of the same name came before."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        found.append((name, seen[name]))
        seen[name] += 1
    return found


def _place_decoder(key: str, new: Tensor, old: Tensor | None, model: Space, from_: Space) -> bool:
    """Whether the tensor could be taken over; by profile type where it has rows of them."""
    if old is None:
        return False
    if not has_rows_of_types(key):
        fits = new.shape == old.shape
        if fits:
            new.copy_(old)
        return fits
    types, known = model.config.profile_types, from_.config.profile_types
    by_type, of_old = new.unflatten(0, (len(types), -1)), old.unflatten(0, (len(known), -1))
    if by_type.shape[1:] != of_old.shape[1:]:
        return False
    for row, name in enumerate(types):
        if name in known:
            by_type[row] = of_old[known.index(name)]
    return True


def _place_own(new: Tensor, old: Tensor | None) -> None:
    """What serves hidden bases, where the other model has it, too."""
    if old is not None and old.shape == new.shape:
        new.copy_(old)


def _new(
    model: Space, tracks: Mapping[str, Sequence[Track]], old: TrainedModel, like: str | None
) -> list[str]:
    origin = f" (token and gates as those of {like})" if like else ""
    found = [f"species {name}{origin}" for name in model.species if name not in old.model.species]
    for name in model.species:
        names, known = _identifiers(name, tracks, old)
        new = [n for n in names if n not in known]
        if new and name in old.model.species:
            found.append(f"{len(new)} tracks of {name} ({shorten(new)})")
    found += _own_experts(model, old.model)
    types = set(model.config.profile_types) - set(old.model.config.profile_types)
    found += [f"profile type {name}" for name in sorted(types)]
    return found + _for_bases(model, old.model)


def _left_over(model: Space, tracks: Mapping[str, Sequence[Track]], old: TrainedModel) -> list[str]:
    found = [f"species {name}" for name in old.model.species if name not in model.species]
    for name in model.species:
        names, known = _identifiers(name, tracks, old)
        gone = [n for n in known if n not in names]
        if gone:
            found.append(f"{len(gone)} tracks of {name} ({shorten(gone)})")
    return found + _own_experts(old.model, model) + _for_bases(old.model, model)


def _for_bases(model: Space, other: Space) -> list[str]:
    """What of code and head for hidden bases a model has and the other one lacks."""
    known = {name: tensor.shape for name, tensor in other.state_dict().items()}
    lacking = {
        name.split(".")[0]
        for name, tensor in model.state_dict().items()
        if name.startswith(OWN) and known.get(name) != tensor.shape
    }
    return sorted(lacking)


def _own_experts(model: Space, other: Space) -> list[str]:
    """The own experts that a model has and the other one lacks."""
    counts = {
        name: count - other.config.own_experts.get(name, 0)
        for name, count in model.config.own_experts.items()
    }
    return [f"{n} own experts of {name} in each block" for name, n in counts.items() if n > 0]
