"""The seam between what is optimised and the machinery that optimises it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from spacescale.config import Config
from spacescale.dataset.batch import Batch
from spacescale.dataset.loader import Windows, open_datasets
from spacescale.dataset.run_data import RunData
from spacescale.errors import UserError
from spacescale.model.species_loss import SpeciesLoss

Model = Callable[..., Any]  # a plain model, or the engine around it
SumOverRanks = Callable[[Tensor], Tensor]  # differentiable
Datasets = Mapping[str, Any]  # by species; SpeciesData, or SpeciesGenome as `open` opened them


class Score(NamedTuple):
    """The score of a validation that is shown beside its loss."""

    name: str  # as it is logged: valid/…; that of a species is NAME/SPECIES
    words: str


@dataclass(frozen=True)
class Losses:
    """What one micro-step lost.

    total is what is differentiated. terms are the parts of it that belong to no one species, by
    the names under which they are logged. of_species are unweighted, of the species of the batch.
    """

    total: Tensor
    terms: dict[str, Tensor]
    of_species: Mapping[str, SpeciesLoss]


def require_known_species(datasets: Datasets, **named: Mapping[str, Any]) -> None:
    """Raise UserError for a species that is not of the data. named: by section__field."""
    for field, of_species in named.items():
        if unknown := set(of_species) - set(datasets):
            raise UserError(
                f"{field.replace('__', '.')} names {', '.join(sorted(unknown))}; the data are of "
                f"{', '.join(datasets)}"
            )


class Stopped(Exception):
    """Somebody asked to stop while a split was being scored."""


class Objective(ABC):
    """What a run optimises, made of the configuration of the run or of a checkpoint.

    A run goes through these methods in their order. A checkpoint is read and converted with
    `build`, `probe`, `describe` and `load_export` alone, without any data.
    """

    score: ClassVar[Score]
    attachments: ClassVar[tuple[str, ...]]  # folders that `attach` makes

    def __init__(self, config: Config):
        self.config = config

    # ---- Before a run: configuration, model, windows --------------------------------------------

    def open(self, paths: list[Path]) -> dict[str, Any]:
        """Open species folders, or folders of them; those without tracks are refused.

        An objective that needs no tracks takes them, too. Raises UserError.
        """
        return open_datasets(paths)

    @abstractmethod
    def complete(self, datasets: Datasets) -> Config:
        """The configuration with all that follows from the data: paths, species, tracks …

        The other methods want an objective of a complete configuration. Raises UserError where
        data and configuration do not fit, and for a `run.best_metric` that `validate` will not
        give.
        """

    @abstractmethod
    def build(self) -> nn.Module:
        """The plain model in training mode, with weights drawn from torch's global generator.

        Its parameters' names are those of checkpoints and exports.
        """

    def build_on_meta(self) -> nn.Module:
        """The model on PyTorch's meta device: names and shapes without storage."""
        with torch.device("meta"):
            return self.build()

    @abstractmethod
    def windows(
        self,
        datasets: Datasets,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        accumulation: int,
    ) -> Windows:
        """What a rank reads, in the order of the run.

        accumulation: micro-steps of an optimiser step, for what depends on the number of that.
        What all ranks together read in a micro-step is what one rank alone would read in it with
        as many times the micro-batch.
        """

    @abstractmethod
    def require_same(self, checkpoint: Path, saved: Config) -> None:
        """Raise UserError for a checkpoint whose model this one cannot take the place of.

        saved: the checkpoint's configuration, of the same objective and species. Settings that can
        be compared one by one are, for all objectives alike: here is what these do not show.
        """

    # ---- During a run ---------------------------------------------------------------------------

    @abstractmethod
    def begin(self, datasets: Datasets, device: torch.device) -> None:
        """Take what losses and validation need of the data; before the first of either."""

    @abstractmethod
    def announce(self, model: nn.Module, windows: Windows, dtype: torch.dtype) -> None:
        """Log what is worth knowing of a run that is about to train; on all ranks.

        model: on its device, its experts and statistics shared out. dtype: that it computes in.
        """

    @abstractmethod
    def losses(self, model: Model, batch: Batch, sum_over_ranks: SumOverRanks, step: int) -> Losses:
        """Run a micro-batch through a model in training mode and say what it lost.

        batch: of `windows`, on the device. step: of the optimiser, from 0 on. The mean of `total`
        over ranks is what is minimised.
        """

    def rate_factor(self, step: int) -> float:
        """What the learning rate of an optimiser step is multiplied by."""
        return 1.0

    def begins_phase(self, step: int) -> bool:
        """Whether other losses count from this step on, which those before cannot be held against.

        Best score, patience and what is remembered of spikes begin anew there.
        """
        return False

    def trains(self, score: str, step: int) -> bool:
        """Whether a score of `validate`, by its name, is of what this step trains.

        Others neither make a checkpoint the best nor end a run.
        """
        return True

    def same_loss(self, species: str) -> bool:
        """Whether `valid/loss/SPECIES` is what training's `of_species` is, but for the windows.

        Only then is their difference logged.
        """
        return True

    @abstractmethod
    def validate(
        self, model: Model, batch_size: int, stop_asked: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Score the validation windows with a model in evaluation mode, over all ranks.

        Returns the scores as they are logged, `valid/…`, the same on all ranks; among them
        `valid/loss`, `valid/loss/SPECIES` (`same_loss`: how far it is training's) and those of
        `score`. batch_size: windows that fit into memory at a time. stop_asked: asked before each
        batch, with the same answer on all ranks; None is returned once it is true.
        """

    # ---- Checkpoints and exports ----------------------------------------------------------------

    def for_use(self) -> Objective:
        """The objective whose model an export holds where nothing else is asked for.

        It leaves out what serves training alone; its model's names are some of this one's.
        """
        return self

    @abstractmethod
    def probe(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """Predictions for a fixed input that shows every part of the model: name → floating point.

        The model, in evaluation mode, lies on the device. They are kept with checkpoints, and an
        export must make them again. Names hold no slash.
        """

    @abstractmethod
    def attach(self, folder: Path, data: RunData) -> None:
        """Write to a checkpoint what makes its weights of use, into the folders `attachments`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What `config.json` of an export says of the model, as plain values."""

    @abstractmethod
    def load_export(self, folder: Path) -> nn.Module:
        """The model of an export, in evaluation mode, on the CPU; UserError for a damaged one."""
