"""SPACE's objective, and beside it bases that are hidden and to be predicted.

Species without tracks give windows of the latter kind alone. What is hidden is in
tokens/base_masking.py, the windows in dataset/masked_windows.py, the model in model/hybrid.py, what
counts when in bases_config.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spacescale.bases_config import (
    TRUNK_SLOWER,
    Phase,
    first_steps,
    phase_at,
    with_first_steps,
)
from spacescale.config import VALIDATION_BASES, VALIDATION_LOSS, Config
from spacescale.dataset.batch import Batch, SpeciesBatch
from spacescale.dataset.loader import Windows, open_mixed
from spacescale.dataset.masked_windows import MaskedWindows, Masks, windows_anywhere
from spacescale.dataset.reader import SpeciesData, with_tracks
from spacescale.dataset.sampler import Limit, SampleOrder
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.genome.dna import HIDDEN
from spacescale.model.bases_head import masked_cross_entropy
from spacescale.model.hybrid import Hidden, HybridOutput, HybridSpace
from spacescale.model.species_loss import SpeciesLoss
from spacescale.objectives.bases_validation import base_score_names, hidden_of, validate_bases
from spacescale.objectives.objective import Datasets, Losses, Model, Objective, SumOverRanks
from spacescale.objectives.profiles import ProfilesObjective, probe_codes, routing_terms

OF_PROFILES = ("heads", "decoder")  # parts of the model that bases do not use
PROBE_EVERY = 7  # of the probe's bases one in so many is hidden

logger = logging.getLogger(__name__)


class HybridObjective(ProfilesObjective):
    """Profiles as ever, and λ times the cross-entropy of hidden bases.

    With neither weight nor masks it is ProfilesObjective, bit for bit.
    """

    def open(self, paths: list[Path]) -> dict[str, Any]:
        """Open species folders, of which some may have no tracks."""
        return open_mixed(paths)

    def complete(self, datasets: Datasets) -> Config:
        """As of profiles; also how many steps are for bases alone, and rates of learning where
        profiles alone follow upon these.

        Raises UserError for `optim.only_new`, under which the head would change what stays, and
        for species without tracks that would never be read or are given a weight of profiles.
        """
        if self.config.optim.only_new:
            raise UserError(
                "optim.only_new (--only-new): not with objective=profiles+bases; take "
                "objective=profiles"
            )
        config, bases = super().complete(datasets), self.config.bases
        trackless = [name for name, tracks in config.space.species.items() if not tracks]
        if trackless and not bases.trackless_share and bases.schedule == "joint":
            raise UserError(
                "bases.trackless_share=0: with bases.schedule=joint no window of "
                f"{', '.join(trackless)}, without tracks, would ever be read; take a value above 0"
            )
        if weighed := sorted(config.loss.species_weight.keys() & set(trackless)):
            raise UserError(
                f"loss.species_weight names {', '.join(weighed)}, without tracks: it weighs losses "
                "of profiles; data.species_importance says how often a species is read"
            )
        bases = with_first_steps(bases, config.optim.max_steps)
        config = config.model_copy(update={"bases": bases})
        if bases.schedule != "first":
            return config
        parts = [part for part in OF_PROFILES if part == "heads" or config.space.decoder != "none"]
        factors = config.optim.lr_factors | {
            part: TRUNK_SLOWER for part in parts if part not in config.optim.lr_factors
        }
        optim = config.optim.model_copy(update={"lr_factors": factors})
        return config.model_copy(update={"optim": optim})

    def metrics(self, complete: Config, datasets: Datasets) -> list[str]:
        """As of profiles, and those of hidden bases."""
        of_bases = base_score_names(datasets, complete.space.seq_length)
        return super().metrics(complete, datasets) + of_bases

    def build(self) -> HybridSpace:
        """SPACE with fresh weights, and then the head's."""
        return HybridSpace(self.config.space, self.config.bases)

    def windows(
        self,
        datasets: Datasets,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        accumulation: int,
    ) -> Windows:
        """Windows of the training split with their targets, bases of some hidden; and others."""
        config = self.config
        limit = self._limit(datasets, micro_batch_size * world_size * accumulation)
        order = SampleOrder.of_run(
            config,
            {name: self._num_windows(genome) for name, genome in datasets.items()},
            micro_batch_size,
            world_size,
            limit,
        )
        masks = Masks(config.bases, config.optim.max_steps, accumulation, config.run.seed)
        return MaskedWindows(*self.reading(datasets, order, rank), masks)

    def _num_windows(self, genome: SpeciesGenome) -> int:
        """Windows of an epoch."""
        if isinstance(genome, SpeciesData):
            return len(genome.rows("train"))
        config = self.config
        return len(windows_anywhere(genome, config.space.seq_length, config.run.seed))

    def _limit(self, datasets: Datasets, windows_per_step: int) -> Limit | None:
        """On windows of species without tracks, from the step on in which profiles count."""
        tracked = with_tracks(datasets)
        trackless = tuple(name for name in datasets if name not in tracked)
        if not trackless:
            return None
        bases = self.config.bases
        share = 0.0 if bases.schedule == "first" else bases.trackless_share
        return Limit(trackless, share, self._first_steps * windows_per_step)

    def begin(self, datasets: Datasets, device: torch.device) -> None:
        """As of profiles; windows without tracks have targets that were not measured."""
        self.genomes = datasets
        super().begin(with_tracks(datasets), device)
        if self.config.bases.untracked:
            self.with_unmeasured = set(self.datasets)

    def announce(self, model: nn.Module, windows: Windows, dtype: torch.dtype) -> None:
        """As of profiles; and how much sequence the species without tracks have."""
        super().announce(model, windows, dtype)
        for name, genome in self.genomes.items():
            if name not in self.datasets:
                bases = ", ".join(f"{bp:,} bp {s}" for s, bp in genome.bases_of_splits().items())
                logger.info("%s: no tracks; %s", name, bases)

    @property
    def _first_steps(self) -> int:
        """How many steps at the beginning are for bases alone."""
        return first_steps(self.config.bases, self.config.optim.max_steps)

    def phase(self, step: int) -> Phase:
        """What counts in a step."""
        return phase_at(step, self.config.bases, self.config.optim.max_steps)

    def begins_phase(self, step: int) -> bool:
        """Where profiles begin to count after bases alone."""
        return 0 < step == self._first_steps

    def trains(self, score: str, step: int) -> bool:
        """Scores of hidden bases, and of what else once bases do not count alone."""
        alone = [name for name, tracks in self.config.space.species.items() if not tracks]
        of_bases = score.startswith(f"{VALIDATION_BASES}/") or score in {
            f"{VALIDATION_LOSS}/{name}" for name in alone
        }
        if step < self._first_steps:
            return of_bases
        return not of_bases or self.config.bases.schedule != "first"

    def same_loss(self, species: str) -> bool:
        """Not of hidden bases, of which training shows some; nor of windows that weigh less."""
        return species in self.targets and self.config.bases.masked_profile_weight == 1

    def losses(self, model: Model, batch: Batch, sum_over_ranks: SumOverRanks, step: int) -> Losses:
        """Those of profiles, each as the step's phase weighs it, and the term `bases`.

        The loss of a species without tracks is that of its hidden bases, in nats.
        """
        phase, hidden = self.phase(step), hidden_of(batch)
        output = model({name: part.codes for name, part in batch.items()}, hidden)
        of_species, weighted = self.profile_losses(
            output, batch, sum_over_ranks, self._window_weights(batch, hidden)
        )
        if phase.profiles != 1:
            for name in weighted:
                if name.startswith(("poisson/", "decoder_")):
                    weighted[name] = phase.profiles * weighted[name]
        nats, of_trackless = self._bases_losses(output, batch, sum_over_ranks)
        total = bases = phase.bases * nats
        if weighted:
            total = torch.stack(list(weighted.values())).sum() + bases
        terms = routing_terms(weighted) | {"bases": bases}
        return Losses(total, terms, of_species | of_trackless)

    def _window_weights(
        self, batch: Batch, hidden: Mapping[str, Hidden]
    ) -> dict[str, Tensor] | None:
        """Factors (B,) on the profile losses of a species' windows, unless they all are 1."""
        if self.config.bases.masked_profile_weight == 1:
            return None
        weights = {}
        for name in self.targets.keys() & batch.keys():
            part = batch[name]
            of_windows = torch.ones(part.num_windows)
            of_windows[list(hidden[name].windows)] = self.config.bases.masked_profile_weight
            weights[name] = of_windows.to(part.codes.device, non_blocking=True)
        return weights

    def _bases_losses(
        self, output: HybridOutput, batch: Batch, sum_over_ranks: SumOverRanks
    ) -> tuple[Tensor, dict[str, SpeciesLoss]]:
        """Mean over all ranks' hidden bases of their cross-entropy, those in repeats as weighed.

        And of each species without tracks its own, in which all bases weigh the same.
        """
        alone = {name: part for name, part in batch.items() if name not in self.targets}
        parts = [part.hidden for part in batch.values()]
        bases = torch.cat([part.bases for part in parts if part is not None])
        in_repeats = torch.cat([part.in_repeats for part in parts if part is not None])
        logits = torch.cat([output.base_logits[name] for name in batch])
        weights = torch.where(in_repeats, self.config.bases.repeat_weight, 1.0).to(logits.dtype)
        counts = [len(bases), 1, *(len(output.base_logits[name]) for name in alone)]
        everywhere, ranks, *of_alone = sum_over_ranks(
            torch.tensor(counts, dtype=torch.float64).to(logits.device, non_blocking=True)
        )
        per_rank = (everywhere / ranks).to(logits.dtype)
        of_species = {
            name: _loss_of_bases(part, output.base_logits[name], count / ranks)
            for (name, part), count in zip(alone.items(), of_alone, strict=True)
        }
        return masked_cross_entropy(logits, bases, weights, per_rank), of_species

    def rate_factor(self, step: int) -> float:
        """1, and a fifth while profiles alone follow upon bases; their heads learn as fast as ever.

        Where bases came first the rate warms up once more when profiles begin to count: AdamW has
        seen no gradient of their heads before, and would move them several times too far.
        """
        bases, optim = self.config.bases, self.config.optim
        since = step - self._first_steps
        if since < 0 or bases.schedule == "joint":
            return 1.0
        slower = 1 / TRUNK_SLOWER if bases.schedule == "first" else 1.0
        return slower * min(1.0, (since + 1) / max(1, optim.warmup_steps))

    def validate(
        self, model: Model, batch_size: int, stop_asked: Callable[[], bool]
    ) -> dict[str, float] | None:
        """As of profiles, on clean windows; and hidden bases, `valid/bases/…`.

        Among the latter `valid/loss/SPECIES` of species without tracks, whose bases are all hidden
        by the mask code.
        """
        of_profiles = super().validate(model, batch_size, stop_asked)
        if of_profiles is None:
            return None
        of_bases = validate_bases(
            model, self.genomes, self.config, batch_size, self.device, stop_asked
        )
        return None if of_bases is None else of_profiles | of_bases

    def probe(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """As of profiles, and then logits (M, 4) of hidden bases of each species."""
        tracks = super().probe(model, device)
        found = {}
        for name, codes in probe_codes(self.config.space, self.config.space.species).items():
            codes[:, ::PROBE_EVERY] = HIDDEN
            places = torch.arange(0, codes.shape[1], PROBE_EVERY).to(device)
            hidden = {name: Hidden((0,), places, 1, 0)}
            found[f"bases of {name}"] = model({name: codes.to(device)}, hidden).base_logits[name]
        return tracks | found

    def for_use(self) -> Objective:
        """Profiles alone: an export is SPACE's, which knows neither mask nor head.

        Species without tracks stay: it has features of their sequences.
        """
        return ProfilesObjective(self.config.model_copy(update={"objective": "profiles"}))

    def describe(self) -> dict[str, Any]:
        """As of profiles, and the settings of the bases, from which the head is built."""
        return super().describe() | {"bases": self.config.bases.model_dump(mode="json")}

    def load_export(self, folder: Path) -> HybridSpace:
        """The model of an export with head and code."""
        model = super().load_export(folder)
        assert isinstance(model, HybridSpace)
        return model


def _loss_of_bases(part: SpeciesBatch, logits: Tensor, hidden_per_rank: Tensor) -> SpeciesLoss:
    """Of one species: mean cross-entropy of its hidden bases, which is not differentiated here."""
    assert part.hidden is not None
    even, per_rank = torch.ones(len(logits), device=logits.device), hidden_per_rank.to(logits.dtype)
    nats = masked_cross_entropy(logits.detach(), part.hidden.bases, even, per_rank)
    return SpeciesLoss(nats, part.on_all_ranks, 1.0)
