"""Score the validation split during training, spread over all ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from spacescale.config import VALIDATION_SCORE, Config, ModelConfig
from spacescale.dataset.batch import SpeciesBatch
from spacescale.dataset.loader import evaluation_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.evals.track_prediction import (
    Predict,
    TrackScores,
    add_expert_use,
    empty_expert_use,
    nonzero_means,
    score_split,
)
from spacescale.metrics.regression import summarise_by_assay
from spacescale.metrics.routing import ExpertUse
from spacescale.parallel import comm


def score_names(model: ModelConfig) -> list[str]:
    """What `run.best_metric` may be."""
    names = [VALIDATION_SCORE]
    for species, assays in model.species.items():
        names += [f"valid/pearson_log1p/{species}", f"valid/pearson_raw/{species}"]
        names += [f"valid/pearson_log1p/{species}/{assay}" for assay in sorted(set(assays))]
    return names


def validate(
    predict: Predict,
    datasets: dict[str, SpeciesData],
    config: Config,
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Score every species' first `run.valid_windows` validation windows, over all ranks.

    Returns the scores, named as they are logged, and which experts were used. The first, the mean
    over species of their mean log1p Pearson, is NaN if no track varies.
    Each rank takes `batch_size` windows at a time. The number is training's, which fits its memory.
    The model must be in evaluation mode. A species without validation windows is left out.
    """
    model, scalars, overall = config.model, {}, []
    use = empty_expert_use(model, device)
    for name, data in datasets.items():
        if not data.manifest.num_windows.get("valid"):
            continue
        accuracy = _score_species(predict, data, config, batch_size, device, use)
        overall.append(float(accuracy.log1p.pearson().nanmean()))
        scalars[f"valid/pearson_log1p/{name}"] = overall[-1]
        scalars[f"valid/pearson_raw/{name}"] = float(accuracy.raw.pearson().nanmean())
        by_assay = summarise_by_assay(accuracy.log1p.pearson(), model.species[name])
        for assay, summary in by_assay.items():
            scalars[f"valid/pearson_log1p/{name}/{assay}"] = summary.mean
    known = [score for score in overall if np.isfinite(score)]
    mean = float(np.mean(known)) if known else float("nan")
    return {VALIDATION_SCORE: mean} | scalars | _expert_scalars(use)


def _score_species(
    predict: Predict,
    data: SpeciesData,
    config: Config,
    batch_size: int,
    device: torch.device,
    use: ExpertUse,
) -> TrackScores:
    local = score_split(
        predict,
        data.name,
        _rank_share(data, config, batch_size, device),
        nonzero_means(data.track_mean).to(device),
        config.loss.track_scale == "mean",
        observe=lambda batch, prediction, output: add_expert_use(use, output),
    )
    return TrackScores.from_tensor(comm.add_over_ranks(local.tensor()))


def _rank_share(
    data: SpeciesData, config: Config, batch_size: int, device: torch.device
) -> Iterator[tuple[SpeciesBatch, Tensor]]:
    """This rank's windows. Every rank makes as many calls, as expert parallelism requires:
    windows that only fill up the last round have weight 0.
    """
    rows = data.rows("valid")[: config.run.valid_windows]
    mine = rows[comm.rank() :: comm.world_size()]
    filler = -(-len(rows) // comm.world_size()) - len(mine)  # 0 or 1
    weights = torch.tensor([1.0] * len(mine) + [0.0] * filler, device=device)
    batches = evaluation_batches(
        data, np.concatenate([mine, rows[:filler]]), config.model.seq_length, batch_size
    )
    for batch, weight in zip(batches, weights.split(batch_size), strict=True):
        yield batch.to(device), weight


def _expert_scalars(use: ExpertUse) -> dict[str, float]:
    """Share of gate mass per species, layer and expert; the same numbers on every rank."""
    for mass in use.tensors():
        mass.copy_(comm.add_over_ranks(mass))
    found = {}
    for species, by_layer in use.encoder_shares().items():
        for layer, shares in enumerate(by_layer.tolist()):
            for expert, share in enumerate(shares):
                found[f"valid_experts/{species}/block{layer}/expert{expert}"] = share
    for (species, assay), shares in use.decoder_shares().items():
        for expert, share in enumerate(shares.tolist()):
            found[f"valid_experts/{species}/decoder/{assay}/expert{expert}"] = share
    return found
