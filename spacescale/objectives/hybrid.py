"""SPACE's objective, and beside it bases that are hidden and to be predicted.

What is hidden is in tokens/base_masking.py, the windows in dataset/masked_windows.py, the model in
model/hybrid.py, what counts when in bases_config.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spacescale.bases_config import TRUNK_SLOWER, Phase, first_steps, phase_at
from spacescale.config import Config
from spacescale.dataset.batch import Batch
from spacescale.dataset.loader import Windows
from spacescale.dataset.masked_windows import MaskedWindows, Masks
from spacescale.dataset.sampler import SampleOrder
from spacescale.errors import UserError
from spacescale.genome.dna import HIDDEN
from spacescale.model.bases_head import masked_cross_entropy
from spacescale.model.hybrid import Hidden, HybridOutput, HybridSpace
from spacescale.objectives.bases_validation import hidden_of, validate_bases
from spacescale.objectives.objective import Datasets, Losses, Model, Objective, SumOverRanks
from spacescale.objectives.profiles import ProfilesObjective, probe_codes, routing_terms

OF_PROFILES = ("heads", "decoder")  # parts of the model that bases do not use
PROBE_EVERY = 7  # of the probe's bases one in so many is hidden


class HybridObjective(ProfilesObjective):
    """Profiles as ever, and λ times the cross-entropy of hidden bases.

    With neither weight nor masks it is ProfilesObjective, bit for bit.
    """

    def complete(self, datasets: Datasets) -> Config:
        """As of profiles; where bases come first and then profiles alone, also rates of learning.

        Raises UserError for `optim.only_new`, under which the head would change what stays.
        """
        if self.config.optim.only_new:
            raise UserError(
                "optim.only_new (--only-new): not with objective=profiles+bases; take "
                "objective=profiles"
            )
        config = super().complete(datasets)
        if config.bases.schedule != "first":
            return config
        parts = [part for part in OF_PROFILES if part == "heads" or config.space.decoder != "none"]
        factors = config.optim.lr_factors | {
            part: TRUNK_SLOWER for part in parts if part not in config.optim.lr_factors
        }
        optim = config.optim.model_copy(update={"lr_factors": factors})
        return config.model_copy(update={"optim": optim})

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
        """Windows of the training split with their targets, bases of some hidden."""
        config = self.config
        num_windows = {name: len(data.rows("train")) for name, data in datasets.items()}
        return MaskedWindows(
            dict(datasets),
            SampleOrder.of_run(config, num_windows, micro_batch_size, world_size),
            rank,
            config.space.seq_length,
            config.data.roll_targets_windows,
            config.data.on_damaged == "replace",
            Masks(config.bases, config.optim.max_steps, accumulation, config.run.seed),
        )

    def begin(self, datasets: Datasets, device: torch.device) -> None:
        """As of profiles; windows without tracks have targets that were not measured."""
        super().begin(datasets, device)
        if self.config.bases.untracked:
            self.with_unmeasured = set(datasets)

    def phase(self, step: int) -> Phase:
        """What counts in a step."""
        return phase_at(step, self.config.bases, self.config.optim.max_steps)

    def losses(self, model: Model, batch: Batch, sum_over_ranks: SumOverRanks, step: int) -> Losses:
        """Those of profiles, each as the step's phase weighs it, and the term `bases`."""
        phase, hidden = self.phase(step), hidden_of(batch)
        output = model({name: part.codes for name, part in batch.items()}, hidden)
        of_species, weighted = self.profile_losses(
            output, batch, sum_over_ranks, self._window_weights(batch, hidden)
        )
        if phase.profiles != 1:
            for name in weighted:
                if name.startswith(("poisson/", "decoder_")):
                    weighted[name] = phase.profiles * weighted[name]
        bases = phase.bases * self._bases_loss(output, batch, sum_over_ranks)
        total = torch.stack(list(weighted.values())).sum() + bases
        return Losses(total, routing_terms(weighted) | {"bases": bases}, of_species)

    def _window_weights(
        self, batch: Batch, hidden: Mapping[str, Hidden]
    ) -> dict[str, Tensor] | None:
        """Factors (B,) on the profile losses of a species' windows, unless they all are 1."""
        if self.config.bases.masked_profile_weight == 1:
            return None
        weights = {}
        for name, part in batch.items():
            of_windows = torch.ones(part.num_windows)
            of_windows[list(hidden[name].windows)] = self.config.bases.masked_profile_weight
            weights[name] = of_windows.to(part.codes.device, non_blocking=True)
        return weights

    def _bases_loss(
        self, output: HybridOutput, batch: Batch, sum_over_ranks: SumOverRanks
    ) -> Tensor:
        """Mean over all ranks' hidden bases of their cross-entropy, those in repeats as weighed."""
        parts = [part.hidden for part in batch.values()]
        bases = torch.cat([part.bases for part in parts if part is not None])
        in_repeats = torch.cat([part.in_repeats for part in parts if part is not None])
        logits = torch.cat([output.base_logits[name] for name in batch])
        weights = torch.where(in_repeats, self.config.bases.repeat_weight, 1.0).to(logits.dtype)
        counts = torch.tensor([len(bases), 1], dtype=torch.float64).to(
            logits.device, non_blocking=True
        )
        everywhere, ranks = sum_over_ranks(counts)
        return masked_cross_entropy(logits, bases, weights, (everywhere / ranks).to(logits.dtype))

    def rate_factor(self, step: int) -> float:
        """1, and a fifth while profiles follow upon bases; heads learn five times as fast."""
        bases, steps = self.config.bases, self.config.optim.max_steps
        follows = bases.schedule == "first" and step >= first_steps(bases, steps)
        return 1 / TRUNK_SLOWER if follows else 1.0

    def validate(
        self, model: Model, batch_size: int, stop_asked: Callable[[], bool]
    ) -> dict[str, float] | None:
        """As of profiles, on clean windows; and hidden bases, `valid/bases/…`."""
        of_profiles = super().validate(model, batch_size, stop_asked)
        if of_profiles is None:
            return None
        of_bases = validate_bases(
            model, self.datasets, self.config, batch_size, self.device, stop_asked
        )
        return None if of_bases is None else of_profiles | of_bases

    def probe(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """As of profiles, and then logits (M, 4) of hidden bases of each species."""
        tracks = super().probe(model, device)
        found = {}
        for name, codes in probe_codes(self.config.space).items():
            codes[:, ::PROBE_EVERY] = HIDDEN
            places = torch.arange(0, codes.shape[1], PROBE_EVERY).to(device)
            hidden = {name: Hidden((0,), places, 1, 0)}
            found[f"bases of {name}"] = model({name: codes.to(device)}, hidden).base_logits[name]
        return tracks | found

    def for_use(self) -> Objective:
        """Profiles alone: an export is SPACE's, which knows neither mask nor head."""
        return ProfilesObjective(self.config.model_copy(update={"objective": "profiles"}))

    def describe(self) -> dict[str, Any]:
        """As of profiles, and the settings of the bases, from which the head is built."""
        return super().describe() | {"bases": self.config.bases.model_dump(mode="json")}

    def load_export(self, folder: Path) -> HybridSpace:
        """The model of an export with head and code."""
        model = super().load_export(folder)
        assert isinstance(model, HybridSpace)
        return model
