"""Score tracks of the validation split during training, spread over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from spacescale.config import VALIDATION_LOSS, VALIDATION_SCORE, Config
from spacescale.dataset.batch import SpeciesBatch
from spacescale.dataset.loader import evaluation_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.metrics.regression import summarise_by_assay
from spacescale.metrics.routing import ExpertUse
from spacescale.model.losses import poisson_sums
from spacescale.model.space import SpaceOutput
from spacescale.objectives.objective import Stopped
from spacescale.objectives.species_targets import SpeciesTargets
from spacescale.objectives.track_prediction import (
    Predict,
    TrackScores,
    add_expert_use,
    empty_expert_use,
    score_split,
)
from spacescale.parallel import comm
from spacescale.space_config import ModelConfig


def score_names(model: ModelConfig, read: Mapping[str, SpeciesData]) -> list[str]:
    """What `run.best_metric` may be, of a run that reads these species.

    A species without validation windows has no scores.
    """
    names = [VALIDATION_SCORE, VALIDATION_LOSS]
    for species, data in read.items():
        if not data.manifest.num_windows.get("valid"):
            continue
        assays = model.species[species]
        names += [f"valid/pearson_log1p/{species}", f"valid/pearson_raw/{species}"]
        names.append(f"{VALIDATION_LOSS}/{species}")
        names += [f"valid/pearson_log1p/{species}/{assay}" for assay in sorted(set(assays))]
    return names


def validate(
    predict: Predict,
    datasets: Mapping[str, SpeciesData],
    targets: Mapping[str, SpeciesTargets],
    config: Config,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool],
) -> dict[str, float] | None:
    """Score every species' first `run.valid_windows` validation windows, over all ranks.

    Returns the scores, named as they are logged, and which experts were used. The first two are
    means over species: of their mean log1p Pearson, NaN if no track varies, and of their loss. That
    is training's, each track with its weight: Poisson per measured target, over all windows.
    Each rank takes `batch_size` windows at a time. The number is training's, which fits its memory.
    The model must be in evaluation mode. A species without validation windows is left out.

    stop_asked: asked before each batch, with the same answer on all ranks; None is returned once
    it is true.
    """
    try:
        return _scores(predict, datasets, targets, config, batch_size, device, stop_asked)
    except Stopped:
        return None


def _scores(
    predict: Predict,
    datasets: Mapping[str, SpeciesData],
    targets: Mapping[str, SpeciesTargets],
    config: Config,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool],
) -> dict[str, float]:
    model, scalars = config.space, {}
    overall: dict[str, list[float]] = {VALIDATION_SCORE: [], VALIDATION_LOSS: []}
    use = empty_expert_use(model, device)
    for name, data in datasets.items():
        if not data.manifest.num_windows.get("valid"):
            continue
        accuracy, loss = _score_species(
            predict, data, targets[name], config, batch_size, device, stop_asked, use
        )
        log1p = float(accuracy.log1p.pearson().nanmean())
        overall[VALIDATION_SCORE].append(log1p)
        overall[VALIDATION_LOSS].append(loss)
        scalars[f"{VALIDATION_SCORE}/{name}"] = log1p
        scalars[f"valid/pearson_raw/{name}"] = float(accuracy.raw.pearson().nanmean())
        scalars[f"{VALIDATION_LOSS}/{name}"] = loss
        by_assay = summarise_by_assay(accuracy.log1p.pearson(), model.species[name])
        for assay, summary in by_assay.items():
            scalars[f"valid/pearson_log1p/{name}/{assay}"] = summary.mean
    means = {metric: _mean(values) for metric, values in overall.items()}
    return means | scalars | expert_scalars(use, "valid_experts")


def _mean(values: list[float]) -> float:
    """Mean of those that are finite; NaN without any."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _score_species(
    predict: Predict,
    data: SpeciesData,
    held_against: SpeciesTargets,
    config: Config,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool],
    use: ExpertUse,
) -> tuple[TrackScores, float]:
    """A species' accuracy and its loss, over all ranks."""
    mine, filler = rank_share(data.rows("valid")[: config.run.valid_windows])
    loss = torch.zeros(2, dtype=torch.float64, device=device)  # sum, and measured targets

    def observe(batch: SpeciesBatch, prediction: Tensor, output: SpaceOutput) -> None:
        add_expert_use(use, output)
        targets = held_against.scale.targets(batch.targets)
        own = torch.isin(batch.rows, torch.from_numpy(mine).to(device))  # the rest fills up
        heads = [part[data.name] for part in (output.prediction, output.enhanced) if part]
        sums = [poisson_sums(p[own], targets[own], held_against.track_weights) for p in heads]
        loss.add_(torch.stack(sums).mean(0))

    local = score_split(
        predict,
        data.name,
        _batches(data, mine, filler, config.space.seq_length, batch_size, device, stop_asked),
        held_against.scale,
        observe=observe,
    )
    total, measured = comm.add_over_ranks(loss).tolist()
    mean = total / measured if measured else float("nan")
    return TrackScores.from_tensor(comm.add_over_ranks(local.tensor())), mean


def rank_share(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """This rank's of some rows, and other ranks' rows that fill up its last round, 0 or 1.

    Every rank makes as many calls, as expert parallelism requires.
    """
    mine = rows[comm.rank() :: comm.world_size()]
    filler = -(-len(rows) // comm.world_size()) - len(mine)
    return mine, rows[:filler]


def _batches(
    data: SpeciesData,
    mine: np.ndarray,
    filler: np.ndarray,
    seq_length: int,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool],
) -> Iterator[tuple[SpeciesBatch, Tensor]]:
    """Windows to score, with weight 0 for those that only fill up. Raises Stopped."""
    weights = torch.tensor([1.0] * len(mine) + [0.0] * len(filler), device=device)
    batches = evaluation_batches(data, np.concatenate([mine, filler]), seq_length, batch_size)
    for batch, weight in zip(batches, weights.split(batch_size), strict=True):
        if stop_asked():
            raise Stopped
        yield batch.to(device), weight


def expert_scalars(use: ExpertUse, prefix: str) -> dict[str, float]:
    """Share of gate mass per species, layer and expert; the same numbers on every rank."""
    for mass in use.tensors():
        mass.copy_(comm.add_over_ranks(mass))
    found = {}
    for species, by_layer in use.encoder_shares().items():
        for layer, shares in enumerate(by_layer.tolist()):
            for expert, share in enumerate(shares):
                if np.isfinite(share):  # not of species that were not scored
                    found[f"{prefix}/{species}/block{layer}/expert{expert}"] = share
    for (species, assay), shares in use.decoder_shares().items():
        for expert, share in enumerate(shares.tolist()):
            found[f"{prefix}/{species}/decoder/{assay}/expert{expert}"] = share
    return found
