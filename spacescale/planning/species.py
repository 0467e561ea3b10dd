"""Whose tracks a planned model predicts: the published model's, or those of given data sets."""

from __future__ import annotations

from pathlib import Path

from spacescale.config import Config
from spacescale.dataset.loader import open_datasets, open_mixed
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.genome.released_grouping import released_grouping
from spacescale.planning.encoder_plan import SEQUENCES
from spacescale.space_config import ModelConfig

PUBLISHED_SPECIES = ("human", "mouse")


def with_species(config: Config, paths: list[Path]) -> Config:
    """Fill in the species and tracks of the data sets at `paths`; without any, the published ones.

    An encoder of tokens is the same for all species. Raises UserError for paths that hold no data
    set.
    """
    if not isinstance(config.model, ModelConfig):
        return config
    if paths:
        open_all = open_mixed if config.objective == "profiles+bases" else open_datasets
        species = {name: _assays(data) for name, data in open_all(paths).items()}
    else:
        species = {name: released_grouping(name) for name in PUBLISHED_SPECIES}
    payload = config.model_dump()
    payload["model"]["species"] = species
    return Config.model_validate(payload)


def _assays(data: SpeciesGenome) -> tuple[str, ...]:
    """Of its tracks; of a species without any, none."""
    return tuple(t.assay for t in data.tracks) if isinstance(data, SpeciesData) else ()


def micro_batch_windows(config: Config, size: int) -> dict[str, int]:
    """Windows per species of the largest micro-batch of `size` windows.

    Species take turns in a run; here those with most tracks come first. Of tokens all count alike.
    """
    if not isinstance(config.model, ModelConfig):
        return {SEQUENCES: size}
    names = sorted(config.space.species, key=lambda name: -len(config.space.species[name]))
    shared, left = divmod(size, len(names))
    windows = {name: shared + (place < left) for place, name in enumerate(names)}
    return {name: count for name, count in windows.items() if count}
