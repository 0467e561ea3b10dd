"""Score hidden bases of the validation split during training, spread over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from spacescale.config import Config
from spacescale.dataset.batch import Batch, SpeciesBatch
from spacescale.dataset.masked_windows import masked_evaluation_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.metrics.masked_bases import BaseScores
from spacescale.model.hybrid import Hidden, HybridOutput
from spacescale.objectives.profile_validation import expert_scalars, rank_share
from spacescale.objectives.track_prediction import add_expert_use, empty_expert_use
from spacescale.parallel import comm

BASES = "valid/bases"
MASKED_EXPERTS = "valid_experts_masked"  # of masked windows; `valid_experts` are of clean ones

PredictHidden = Callable[[dict[str, Tensor], dict[str, Hidden]], HybridOutput]


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
    datasets: Mapping[str, SpeciesData],
    config: Config,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool],
) -> dict[str, float] | None:
    """Score bases that are hidden in each species' first `run.valid_windows` validation windows.

    Hidden are bases of the validation split alone, the same at every validation and in every run
    that hides as much. Returns cross-entropy (nats), perplexity and accuracy by species, the mean
    over species of the first, and which experts masked windows use. Arguments as of `validate` in
    profile_validation.py; None once `stop_asked` is true.
    """
    found, scalars = {}, {}
    use = empty_expert_use(config.space, device)
    for name, data in datasets.items():
        if not data.manifest.num_windows.get("valid"):
            continue
        mine, filler = rank_share(data, config)
        scores = BaseScores(device)
        batches = masked_evaluation_batches(
            data,
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
            found[name] = scores.cross_entropy
            scalars[f"{BASES}/cross_entropy/{name}"] = scores.cross_entropy
            scalars[f"{BASES}/perplexity/{name}"] = scores.perplexity
            scalars[f"{BASES}/accuracy/{name}"] = scores.accuracy
    if found:
        scalars[f"{BASES}/cross_entropy"] = float(np.mean(list(found.values())))
    return scalars | expert_scalars(use, MASKED_EXPERTS)


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
