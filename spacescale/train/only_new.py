"""Species are added to a model without changing what the others get, to the last bit.

All that has a part in the predictions of the old species is frozen, and the statistics of every
BatchNorm with it; what only new species use is trained. That this held is proved at the end, on
the weights and on predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from spacescale.checkpoint.found import find_best, find_checkpoint
from spacescale.config import Config, OptimConfig
from spacescale.dataset.run_data import KeptSpecies
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.metrics.track_scale import PREDICTS
from spacescale.model.exports import local_folder
from spacescale.model.space import Space
from spacescale.predict.trained_model import TrainedModel, load_trained
from spacescale.train.initial_weights import (
    has_rows_of_experts,
    has_rows_of_species,
    has_rows_of_types,
    start_from,
)

WINDOWS = 2
SET_BY_RUN = ("dropout", "attn_dropout", "pos_dropout", "checkpoint_stages")  # of the model

logger = logging.getLogger(__name__)


# ---- What the run takes over of the weights ------------------------------------------------------


def weights_to_keep(optim: OptimConfig, init: Path | None) -> TrainedModel | None:
    """Load what `optim.only_new` leaves as it is; None without it. Raises UserError."""
    if not optim.only_new:
        return None
    if init is None:
        raise UserError("optim.only_new (--only-new): name the weights that stay, with --init")
    return load_trained(local_folder(init))


def with_shape_of(old: TrainedModel, config: Config, new: Iterable[str]) -> Config:
    """Take the old model's shape and species into a configuration.

    new: the species of the data. Raises UserError where the model knows them, or predicts on
    another scale.
    """
    if known := [name for name in new if name in old.model.species]:
        raise UserError(
            f"--data: {old.source} knows {', '.join(known)} already, which optim.only_new "
            "(--only-new) leaves as it is; give data of new species alone"
        )
    if config.loss.track_scale != old.scale_name:
        raise UserError(
            f"loss.track_scale={config.loss.track_scale}: {old.source} predicts "
            f"{PREDICTS[old.scale_name]}, and stays as it is (--only-new); set "
            f"loss.track_scale={old.scale_name}"
        )
    of_run = {name: getattr(config.space, name) for name in SET_BY_RUN}
    of_old = old.model.config
    left_out = [
        f"{name}={getattr(of_old, name)} (not {value})"
        for name, value in config.space
        if name not in (*SET_BY_RUN, "species") and value != getattr(of_old, name)
    ]
    if left_out:
        logger.warning("the model is that of %s: %s", old.source, ", ".join(left_out))
    return config.model_copy(update={"model": old.model.config.model_copy(update=of_run)})


def kept_species(old: TrainedModel | None) -> KeptSpecies:
    """What a run without data of the old model's species says of them."""
    if old is None:
        return KeptSpecies()
    return KeptSpecies(
        tracks={name: old.tracks.get(name, []) for name in old.model.species},
        manifest_hashes=old.data_manifests,
        split_hashes={name: split for name, split in old.data_splits.items() if split},
        transforms=old.data_transforms,
        contigs=old.data_contigs,
    )


def rows_of_old(model: nn.Module, old: Collection[str]) -> dict[str, Tensor]:
    """Rows that have a part in what the old species get: parameter → bool (rows,), or (1,).

    model: Space. A profile type of an old species counts as old, also where a new species has
    tracks of it.
    """
    assert isinstance(model, Space)
    types = model.config.profile_types
    old_types = {assay for name in old for assay in model.config.species[name]}
    by_type = torch.tensor([assay in old_types for assay in types])
    owners = model.config.expert_owners
    rows = {}
    for key, parameter in model.named_parameters():
        if has_rows_of_species(key):
            rows[key] = torch.tensor([name in old for name in model.species])
        elif has_rows_of_experts(key):
            rows[key] = torch.tensor([owner is None or owner in old for owner in owners])
        elif key.startswith("heads."):
            rows[key] = torch.tensor([key.split(".")[1] in old])
        elif has_rows_of_types(key):
            rows[key] = by_type.repeat_interleave(len(parameter) // len(types))
        else:
            rows[key] = torch.ones(1, dtype=torch.bool)
    return rows


# ---- The proof -----------------------------------------------------------------------------------


def hashes_of_predictions(model: Space, species: Iterable[str]) -> dict[str, str]:
    """SHA-256 of float32 predictions (2, N, T) of fixed random windows, by species.

    Of a plain model on the CPU, in evaluation mode, with one thread: more would add up in another
    order. They are those of this machine: another one rounds otherwise.
    """
    generator = torch.Generator().manual_seed(20250612)
    size = (WINDOWS, model.config.seq_length)
    codes = torch.randint(0, 4, size, generator=generator, dtype=torch.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            found = {name: model({name: codes}).prediction[name] for name in species}
    finally:
        torch.set_num_threads(threads)
    return {name: sha256(p.contiguous().numpy().tobytes()).hexdigest() for name, p in found.items()}


def require_unchanged(old: TrainedModel, new: TrainedModel) -> dict[str, str]:
    """`hashes_of_predictions` of the old species, which are those of both models.

    Raises UserError where a weight or statistic of the old model is another in the new one, even
    one that those windows do not ask, or a prediction is.
    """
    without_new = Space(old.model.config).eval()
    start_from(without_new, old.tracks, new)
    kept = without_new.state_dict()
    if changed := [k for k, t in old.model.state_dict().items() if not torch.equal(t, kept[k])]:
        raise UserError(
            f"{new.source}: what {old.source} predicts was to stay as it is, but "
            f"{len(changed)} of its tensors changed: {shorten(changed)}"
        )
    before = hashes_of_predictions(old.model, old.model.heads)
    after = hashes_of_predictions(new.model, old.model.heads)
    for name, of_old in before.items():
        if after[name] != of_old:
            raise UserError(
                f"{new.source}: what {old.source} predicts of {name} was to stay as it is: sha256 "
                f"of predictions was {of_old}, is {after[name]}"
            )
    return before


def prove_start(old: TrainedModel, model: nn.Module) -> None:
    """The same of a Space in training mode that has just taken the old one's weights; says so."""
    assert isinstance(model, Space)
    try:
        start = replace(old, model=model.eval(), source=Path("the model to be trained"))
        hashes = require_unchanged(old, start)
    finally:
        model.train()
    for name, found in hashes.items():
        logger.info("%s is to stay as it is: sha256 of its predictions %s", name, found)


def prove_unchanged(old: TrainedModel, output: Path) -> None:
    """Hold a run's best and last checkpoint against the old weights, as `require_unchanged`."""
    for checkpoint in dict.fromkeys([find_best(output), find_checkpoint(output)]):
        assert checkpoint is not None, "a run that is done has saved"
        for name, found in require_unchanged(old, load_trained(checkpoint)).items():
            words = (checkpoint.name, name, found)
            logger.info("%s: %s is as it was: sha256 of its predictions %s", *words)
