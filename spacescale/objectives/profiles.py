"""The objective of SPACE: every measured track of every species, predicted from the sequence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from spacescale.config import VALIDATION_SCORE, Config, describe_errors
from spacescale.dataset.batch import Batch
from spacescale.dataset.loader import TrainingWindows, Windows
from spacescale.dataset.negative_targets import refuse_negative_tracks
from spacescale.dataset.reader import SpeciesData, with_tracks
from spacescale.dataset.run_data import RunData
from spacescale.dataset.sampler import SampleOrder
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.genome.released_grouping import released_grouping
from spacescale.genome.tracks import write_tracks
from spacescale.model.attention import Attention, attention_kernel
from spacescale.model.exports import load_export
from spacescale.model.losses import species_losses, weighted_losses
from spacescale.model.space import Space, SpaceOutput
from spacescale.model.species_loss import SpeciesLoss
from spacescale.objectives.objective import (
    Datasets,
    Losses,
    Model,
    Objective,
    Score,
    SumOverRanks,
    require_known_species,
)
from spacescale.objectives.profile_validation import score_names, validate
from spacescale.objectives.species_targets import targets_of
from spacescale.overrides import nearest
from spacescale.parallel import comm
from spacescale.space_config import ModelConfig

logger = logging.getLogger(__name__)


class ProfilesObjective(Objective):
    """Poisson losses of all tracks and the losses of the routers, validated by Pearson.

    What predictions are held against is in species_targets.py, the validation in
    profile_validation.py, its measures in track_prediction.py.
    """

    score = Score(VALIDATION_SCORE, "Pearson (log1p)")
    attachments = ("tracks",)  # SPECIES.tsv, the targets table of each head

    def complete(self, datasets: Datasets) -> Config:
        """The configuration with paths, species and tracks of the data.

        Species that the model has already, of weights that stay as they are, come before those of
        the data. Raises UserError where the data's geometry is not the model's, naming both and
        the cure.
        """
        config = self.config
        refuse_negative_tracks(with_tracks(datasets).values())
        _require_fit(config, datasets)
        grouping = config.space.track_grouping
        tracked = with_tracks(datasets)
        species = dict.fromkeys(datasets, ()) | {
            name: _profile_types(data, grouping) for name, data in tracked.items()
        }
        payload = config.model_dump()
        payload["model"]["species"] = config.space.species | species
        payload["data"]["paths"] = tuple(str(data.path.resolve()) for data in datasets.values())
        try:
            complete = Config.model_validate(payload)
        except ValidationError as error:
            raise UserError(describe_errors(error)) from None
        metric, names = config.run.best_metric, self.metrics(complete, datasets)
        if metric not in names:
            raise UserError(
                f"run.best_metric={metric}{nearest(metric, names)}; there are: {', '.join(names)}"
            )
        return complete

    def metrics(self, complete: Config, datasets: Datasets) -> list[str]:
        """What `run.best_metric` may be of a run with this complete configuration."""
        return score_names(complete.space, with_tracks(datasets))

    def build(self) -> Space:
        """SPACE with fresh weights."""
        return Space(self.config.space)

    def windows(
        self,
        datasets: Datasets,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        accumulation: int,
    ) -> TrainingWindows:
        """Windows of the training split with their targets."""
        num_windows = {name: len(data.rows("train")) for name, data in datasets.items()}
        order = SampleOrder.of_run(self.config, num_windows, micro_batch_size, world_size)
        return TrainingWindows(*self.reading(datasets, order, rank))

    def reading(
        self, datasets: Datasets, order: SampleOrder, rank: int
    ) -> tuple[dict[str, SpeciesGenome], SampleOrder, int, int, int, bool]:
        """How TrainingWindows are read: what they are made of, in its order."""
        data, length = self.config.data, self.config.space.seq_length
        replaces = data.on_damaged == "replace"
        return dict(datasets), order, rank, length, data.roll_targets_windows, replaces

    def require_same(self, checkpoint: Path, saved: Config) -> None:
        """Raise UserError where tracks, their order or owners of experts are others."""
        before, now = saved.space, self.config.space
        _require_same_tracks(checkpoint, before.species, now.species)
        # Their order counts, which the settings' comparison does not see.
        if list(before.own_experts.items()) != list(now.own_experts.items()):
            raise UserError(
                f"{checkpoint}: model.own_experts was {before.own_experts}, is now "
                f"{now.own_experts}; resume with the same"
            )

    def begin(self, datasets: Datasets, device: torch.device) -> None:
        """Take scales and weights of all tracks; reads some windows if tracks are balanced."""
        self.datasets, self.device = datasets, device
        self.targets = targets_of(datasets, self.config.loss, device)
        self.with_unmeasured = {
            name for name, data in datasets.items() if data.manifest.missing == "nan"
        }

    def announce(self, model: nn.Module, windows: Windows, dtype: torch.dtype) -> None:
        """Say which attention kernel trains, and warn where the router has nothing to learn."""
        warn_of_single_species(self.config, windows.order)
        _announce_attention(model, self.config.space, dtype, self.device)

    def losses(self, model: Model, batch: Batch, sum_over_ranks: SumOverRanks, step: int) -> Losses:
        """Poisson losses of the species, in the sum as weighed, and those of the routers."""
        output = model({name: part.codes for name, part in batch.items()})
        of_species, weighted = self.profile_losses(output, batch, sum_over_ranks)
        total = torch.stack(list(weighted.values())).sum()
        return Losses(total, routing_terms(weighted), of_species)

    def profile_losses(
        self,
        output: SpaceOutput,
        batch: Batch,
        sum_over_ranks: SumOverRanks,
        window_weights: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, SpeciesLoss], dict[str, Tensor]]:
        """Losses of the species, and all terms as weighed, whose sum is what is differentiated.

        Of the species of the batch that have tracks. window_weights: factors (B,) on the losses of
        a species' windows.
        """
        measured = {name: part for name, part in batch.items() if name in self.targets}
        on_all_ranks = sum(part.on_all_ranks for part in batch.values())
        here = sum(part.num_windows for part in batch.values())
        weights = {name: of_species.track_weights for name, of_species in self.targets.items()}
        for name, of_windows in (window_weights or {}).items():
            weights[name] = weights[name] * of_windows[:, None, None]
        targets = {n: self.targets[n].scale.targets(part.targets) for n, part in measured.items()}
        of_species = species_losses(
            output,
            targets,
            sum_over_ranks,
            self.with_unmeasured,
            {name: part.on_all_ranks for name, part in measured.items()},
            weights,
            on_all_ranks // here,
        )
        return of_species, weighted_losses(output, of_species, self.config.loss, sum_over_ranks)

    def validate(
        self, model: Model, batch_size: int, stop_asked: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Pearson and loss of all species, and which experts each of them uses."""
        return validate(
            model,
            self.datasets,
            self.targets,
            self.config,
            batch_size,
            self.device,
            stop_asked,
        )

    def probe(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """Predictions (1, N, T) for one fixed random sequence of each species that has tracks."""
        species = self.config.space.species
        codes = probe_codes(self.config.space, [name for name in species if species[name]])
        return model({name: of_species.to(device) for name, of_species in codes.items()}).prediction

    def attach(self, folder: Path, data: RunData) -> None:
        """Write the targets table of each head."""
        (tables,) = self.attachments
        for species, tracks in data.tracks.items():
            (folder / tables).mkdir(exist_ok=True)
            write_tracks(folder / tables / f"{species}.tsv", tracks)

    def describe(self) -> dict[str, Any]:
        """Shape and species of the model, and what its predictions are multiples of."""
        return {
            "model": self.config.space.model_dump(mode="json"),
            "track_scale": self.config.loss.track_scale,
        }

    def load_export(self, folder: Path) -> Space:
        """SPACE as anybody loads it."""
        return load_export(folder)


def routing_terms(weighted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of all weighted terms those of no one species."""
    return {name: loss for name, loss in weighted.items() if not name.startswith("poisson/")}


def probe_codes(config: ModelConfig, species: Iterable[str]) -> dict[str, Tensor]:
    """One fixed random sequence for each of these species: name → (1, L) uint8."""
    generator = torch.Generator().manual_seed(20250612)
    return {
        name: torch.randint(0, 4, (1, config.seq_length), generator=generator, dtype=torch.uint8)
        for name in species
    }


def _require_fit(config: Config, datasets: Datasets) -> None:
    """Raise UserError where data sets are not what the configuration is for."""
    model = config.space
    for data in with_tracks(datasets).values():
        if data.bin_size != model.bin_size:
            raise UserError(
                f"{data.path}: bins of {data.bin_size} bp; the model's are {model.bin_size} bp "
                f"(2**model.num_downsamples). Set model.num_downsamples or shard with "
                f"--bin-size {model.bin_size}"
            )
        if data.target_length != model.target_length:
            raise UserError(
                f"{data.path}: {data.target_length} bins per window; preset {config.preset!r} "
                f"predicts {model.target_length}. Set model.target_length={data.target_length} "
                f"or shard with --target-length {model.target_length}"
            )
        if not len(data.rows("train")):
            raise UserError(f"{data.path}: no training windows")
    require_known_species(
        datasets,
        loss__species_weight=config.loss.species_weight,
        data__species_importance=config.data.species_importance,
    )


def _profile_types(data: SpeciesData, grouping: str) -> tuple[str, ...]:
    """Profile type of each track, as `model.track_grouping` says."""
    if grouping == "table":
        return tuple(track.assay for track in data.tracks)
    released = released_grouping(data.name)
    if len(released) != len(data.tracks):
        raise UserError(
            f"{data.path}: {len(data.tracks)} tracks; model.track_grouping=released is for the "
            f"{len(released)} of the Basenji table of {data.name}. Use model.track_grouping=table"
        )
    return released


def warn_of_single_species(config: Config, order: SampleOrder) -> None:
    """Say where the mutual-information loss has nothing to tell apart, and what would help."""
    if len(order.num_windows) == 1 or not config.loss.mi_weight or not comm.is_main():
        return
    on_each_rank = config.loss.routing_scope == "rank"
    share = order.share_of_one_species(on_each_rank)
    if not share:
        return
    many = f"{share:.0%} of" if share < 1 else "all"
    where = " on a rank" if on_each_rank else ""
    size = order.micro_batch_size * (1 if on_each_rank else order.world_size)
    logger.warning(
        "%s micro-steps%s, of %d windows, hold one species alone, where the mutual-information "
        "loss is 0; take more windows per micro-step (data.micro_batch_size, fewer "
        "gradient_accumulation_steps, more processes) or data.species_balance nearer to 1",
        *(many, where, size),
    )


def _announce_attention(
    model: nn.Module, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> None:
    """Say which of torch's attention kernels trains; the plain one keeps all N × N weights."""
    layer = next(module for module in model.modules() if isinstance(module, Attention))
    like = torch.empty(0, device=device, dtype=dtype)
    kernel = attention_kernel(layer, config.num_tokens, like)
    logger.info("attention by torch's %s kernel in %s", kernel, str(dtype).removeprefix("torch."))


def _require_same_tracks(
    checkpoint: Path, saved: Mapping[str, tuple[str, ...]], data: Mapping[str, tuple[str, ...]]
) -> None:
    """Species are the same already; their tracks must be, in the same order."""
    for name, assays in data.items():
        if len(assays) != len(saved[name]):
            raise UserError(
                f"{checkpoint}: species {name!r} has {len(saved[name])} tracks there, but "
                f"{len(assays)} in the data"
            )
        for index, (before, now) in enumerate(zip(saved[name], assays, strict=True)):
            if before != now:
                raise UserError(
                    f"{checkpoint}: track {index} of species {name!r} was {before!r}, in the data "
                    f"it is {now!r}"
                )
