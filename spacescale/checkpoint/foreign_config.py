"""Settings and tracks of imported models: from others' `config.json` to ours, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import ValidationError

from spacescale.checkpoint import key_map
from spacescale.errors import UserError
from spacescale.genome.released_grouping import released_grouping
from spacescale.genome.tracks import Track
from spacescale.space_config import ModelConfig

Fields = Iterable[tuple[str, str, Any]]


def read_fields(foreign: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Our settings from theirs, or their defaults."""
    return {ours: foreign.get(theirs, default) for ours, theirs, default in fields}


def model_config(values: Mapping[str, Any], fields: Fields, source: str) -> ModelConfig:
    """Our configuration; UserError names `source`, their name of the setting, and its value."""
    names = {ours: theirs for ours, theirs, _ in fields}
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        message = problem["msg"].removeprefix("Value error, ")
        place = ""
        if problem["loc"]:
            field = str(problem["loc"][0])
            place = f"{names.get(field, field)}={problem['input']!r}: "
        raise UserError(f"{source}: {place}{message}") from None


def output_heads(foreign: Mapping[str, Any], source: str) -> dict[str, int]:
    """Species → number of tracks; by default those of the Basenji tables."""
    heads = foreign.get("output_heads", key_map.RELEASED_HEADS)
    valid = isinstance(heads, dict) and all(type(n) is int and n > 0 for n in heads.values())
    if not valid or not heads:
        raise UserError(
            f"{source}: output_heads={heads!r}: expected species and their numbers of tracks"
        )
    return heads


def grouping_of(species: Mapping[str, tuple[str, ...]]) -> Literal["table", "released"]:
    """Which `track_grouping` the assays of these species' tracks are."""
    known = key_map.RELEASED_HEADS
    released = (s in known and assays == released_grouping(s) for s, assays in species.items())
    return "released" if all(released) else "table"


def imported_tracks(
    heads: Mapping[str, int],
    targets: Mapping[str, list[Track]],
    grouping: Literal["table", "released"],
    source: str,
) -> dict[str, list[Track]]:
    """The tracks of each head of imported weights, which themselves only count them.

    `targets` are targets tables that the user gave. Tracks without one are named by their number.
    Their assay comes from the released grouping where it is of as many tracks, if `grouping` says
    so or there is no table; else from the table; else it is 'other'. Raises UserError for a table
    of an unknown species or another number of tracks.
    """
    if unknown := targets.keys() - heads.keys():
        raise UserError(f"targets of {min(unknown)!r}: {source} has species {', '.join(heads)}")
    tracks = {}
    for species, count in heads.items():
        table = targets.get(species) or _numbered(species, count)
        if len(table) != count:
            raise UserError(
                f"targets of {species!r}: {len(table)} tracks; {source} has {count} of them"
            )
        if count == key_map.RELEASED_HEADS.get(species) and (
            grouping == "released" or species not in targets
        ):
            assays = released_grouping(species)
            table = [replace(t, assay=a) for t, a in zip(table, assays, strict=True)]
        tracks[species] = table
    return tracks


def _numbered(species: str, count: int) -> list[Track]:
    return [
        Track(index=i, identifier=f"{species}_{i}", file="unknown", strand_pair=i)
        for i in range(count)
    ]


def assays_of(tracks: Mapping[str, list[Track]]) -> dict[str, tuple[str, ...]]:
    """What `ModelConfig.species` holds."""
    return {species: tuple(track.assay for track in table) for species, table in tracks.items()}
