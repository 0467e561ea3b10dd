"""Score hidden bases of the validation split during training, spread over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from spacescale.config import VALIDATION_BASES, VALIDATION_LOSS, Config
from spacescale.dataset.batch import Batch, SpeciesBatch
from spacescale.dataset.masked_windows import masked_evaluation_batches, windows_to_score
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.metrics.masked_bases import BaseScores
from spacescale.model.hybrid import Hidden, HybridOutput
from spacescale.objectives.profile_validation import expert_scalars, rank_share
from spacescale.objectives.track_prediction import add_expert_use, empty_expert_use
from spacescale.parallel import comm

MEASURES = ("cross_entropy", "perplexity", "accuracy")  # of BaseScores
MASKED_EXPERTS = "valid_experts_masked"  # of masked windows; `valid_experts` are of clean ones

PredictHidden = Callable[[dict[str, Tensor], dict[str, Hidden]], HybridOutput]


def base_score_names(read: Mapping[str, SpeciesGenome], seq_length: int) -> list[str]:
    """What `run.best_metric` may be of bases, of a run that reads these species.

    A species of which nothing is held out for validation has no scores.
    """
    names = [f"{VALIDATION_BASES}/{measure}" for measure in MEASURES]
    of_species = []
    for species, genome in read.items():
        if len(windows_to_score(genome, seq_length, "valid")):
            alone = [] if isinstance(genome, SpeciesData) else [VALIDATION_LOSS]
            of_species += [f"{name}/{species}" for name in [*names, *alone]]
    return names + of_species


def hidden_of(batch: Batch) -> dict[str, Hidden]:
    """What the model is told of the hidden bases of a batch that has some or none."""
    found = {}
    for name, part in batch.items():
        assert part.hidden is not None
        masked = part.hidden.on_all_ranks
        clean = part.on_all_ranks - masked
        found[name] = Hidden(part.hidden.windows, part.hidden.places, masked, clean)
    return found


def validate_bases(
    predict: PredictHidden,
    genomes: Mapping[str, SpeciesGenome],
    config: Config,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool],
) -> dict[str, float] | None:
    """Score bases that are hidden in each species' first `run.valid_windows` validation windows.

    Of a species without tracks these are as many, evenly spread. Hidden are bases of the validation
    split alone, the same at every validation and in every run that hides as much. Returns
    cross-entropy (nats), perplexity and accuracy by species and in all, the means over species of
    the first and the last; as `valid/loss` the cross-entropy of species without tracks; and which
    experts masked windows use. Arguments as of `validate` in profile_validation.py; None once
    `stop_asked` is true.
    """
    found: dict[str, BaseScores] = {}
    scalars: dict[str, float] = {}
    use = empty_expert_use(config.space, device)
    for name, genome in genomes.items():
        mine, filler = rank_share(_windows(genome, config))
        scores = BaseScores(device)
        batches = masked_evaluation_batches(
            genome,
            np.concatenate([mine, filler]),
            config.space.seq_length,
            batch_size,
            "valid",
            config.bases,
        )
        for batch in batches:
            if stop_asked():
                return None
            output = score_bases(predict, name, batch.to(device), scores, mine)
            add_expert_use(use, output)
        scores.sums = comm.add_over_ranks(scores.sums)
        if scores.count:
            found[name] = scores
            for measure in MEASURES:
                scalars[f"{VALIDATION_BASES}/{measure}/{name}"] = getattr(scores, measure)
            if not isinstance(genome, SpeciesData):
                scalars[f"{VALIDATION_LOSS}/{name}"] = scores.cross_entropy
    return _means(found) | scalars | expert_scalars(use, MASKED_EXPERTS)


def _windows(genome: SpeciesGenome, config: Config) -> np.ndarray:
    """The validation windows of a species that are scored."""
    windows = windows_to_score(genome, config.space.seq_length, "valid")
    most = config.run.valid_windows
    if isinstance(genome, SpeciesData):
        return windows[:most]
    count = min(most, len(windows))
    return windows[np.arange(count) * len(windows) // max(count, 1)]


def _means(found: Mapping[str, BaseScores]) -> dict[str, float]:
    """Over species; the perplexity is that of the mean cross-entropy."""
    if not found:
        return {}
    nats = float(np.mean([scores.cross_entropy for scores in found.values()]))
    accuracy = float(np.mean([scores.accuracy for scores in found.values()]))
    values = (nats, math.exp(nats), accuracy)
    return {f"{VALIDATION_BASES}/{m}": v for m, v in zip(MEASURES, values, strict=True)}


@torch.no_grad()
def score_bases(
    predict: PredictHidden,
    species: str,
    batch: SpeciesBatch,
    scores: BaseScores,
    counted: np.ndarray | None = None,
) -> HybridOutput:
    """Add a batch in which all windows are masked; returns what the model said.

    counted: rows that count, None for all; the others only fill up.
    """
    output = predict({species: batch.codes}, hidden_of({species: batch}))
    hidden, logits = batch.hidden, output.base_logits[species]
    assert hidden is not None
    own = torch.ones_like(hidden.bases, dtype=torch.bool)
    if counted is not None:
        rows = torch.isin(batch.rows, torch.from_numpy(counted).to(batch.rows.device))
        own = rows[hidden.places // batch.codes.shape[1]]
    scores.update(logits[own], hidden.bases[own])
    return output
