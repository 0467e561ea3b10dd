"""Evaluate a trained model on a split: scores, tables and figures for people.

Shapes: N bins, T tracks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spacescale.data.batch import SpeciesBatch
from spacescale.data.loader import evaluation_batches, open_datasets
from spacescale.data.shard_reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals import figures
from spacescale.evals.reports import (
    AccRow,
    SummaryRow,
    summary_table,
    write_acc_table,
    write_metrics_json,
)
from spacescale.evals.track_prediction import (
    TrackScores,
    add_expert_use,
    count_experts_of,
    score_split,
)
from spacescale.evals.trained_model import OTHER_SPLIT, Splits, TrainedModel, load_trained
from spacescale.metrics.regression import summarise_by_assay
from spacescale.metrics.routing import ExpertUse
from spacescale.metrics.writer import METRICS_FILE
from spacescale.model.space import SpaceOutput

logger = logging.getLogger(__name__)
BATCH_SIZE = 4
REGION_WINDOWS = 4  # windows drawn in the figure of observed against predicted tracks


@dataclass
class SpeciesResult:
    """Scores of one species, of the model and of the baseline, and a region to draw."""

    data: SpeciesData
    splits: Splits
    num_windows: int
    scores: TrackScores
    baseline: TrackScores
    region: list[int]  # rows of the stretch to draw
    predicted: dict[int, np.ndarray] = field(default_factory=dict)  # row → (N, T)
    observed: dict[int, np.ndarray] = field(default_factory=dict)


def evaluate(
    path: Path,
    data_paths: list[Path],
    split: str,
    out: Path | None,
    both_strands: bool,
    other_split: bool = False,
) -> str:
    """Score `path` on a split of the data and write tables and figures; returns a summary table.

    Writes metrics.json, one SPECIES/acc.txt each and figures/*.png to `out`. The baseline beside
    every figure predicts each track's mean profile over the training windows, whatever the
    sequence. Raises UserError for data that do not fit the model, and unless other_split for data
    that are split in another way than those it was trained on.
    """
    trained = load_trained(path)
    if not data_paths and not trained.data_paths:
        raise UserError(f"{path}: an export does not know its data; give --data")
    if not data_paths and (moved := [str(p) for p in trained.data_paths if not p.is_dir()]):
        raise UserError(
            f"{path}: was trained on {', '.join(moved)}, which is not there; give --data with the "
            "folders where the data are now"
        )
    datasets = open_datasets(data_paths or trained.data_paths)
    for data in datasets.values():
        trained.check_data(data, other_split)
    use = count_experts_of(trained.model.config, trained.device)
    results = [_evaluate_species(trained, d, split, both_strands, use) for d in datasets.values()]
    folder = out or (trained.run or path) / "evaluation" / split
    description = {
        "model": trained.source.name,
        "split": split,
        "both_strands": both_strands,
        "definition": "Pearson per track over all positions of the split's windows, then the mean "
        "over tracks; log1p of prediction and target in multiples of the track's training mean",
    }
    write_tables(folder, results, description)
    draw_figures(folder / "figures", results, use, split, trained.run)
    logger.info("tables and figures: %s", folder)
    notes = [f"{r.data.name}: {OTHER_SPLIT}" for r in results if r.splits == "other"]
    return "\n".join([summary_table(summary_rows(results)), *notes])


def _evaluate_species(
    trained: TrainedModel, data: SpeciesData, split: str, both_strands: bool, use: ExpertUse
) -> SpeciesResult:
    rows = data.rows(split)
    if not len(rows):
        raise UserError(f"{data.path}: no windows in split {split!r}")
    scale = trained.scale(data.name)
    profile = mean_profile(data).to(trained.device) / scale
    result = SpeciesResult(
        data,
        trained.splits_of(data),
        len(rows),
        TrackScores(len(scale), trained.device),
        TrackScores(len(scale), trained.device),
        middle_stretch(data, rows),
    )

    def observe(batch: SpeciesBatch, prediction: Tensor, output: SpaceOutput) -> None:
        target = batch.targets.float() / scale
        result.baseline.update(profile.expand_as(target), target)
        add_expert_use(use, output)
        for i, row in enumerate(batch.rows.tolist()):
            if row in result.region:
                result.predicted[row] = prediction[i].cpu().numpy()
                result.observed[row] = target[i].cpu().numpy()

    result.scores = score_split(
        trained.model,
        data.name,
        _batches(data, rows, trained),
        scale,
        trained.trained_on_means,
        strand_pair=data.strand_pair if both_strands else None,
        observe=observe,
    )
    return result


def _batches(
    data: SpeciesData, rows: np.ndarray, trained: TrainedModel
) -> Iterator[tuple[SpeciesBatch, None]]:
    seq_length = trained.model.config.seq_length
    with tqdm(total=len(rows), unit="window", desc=data.name, disable=None) as bar:
        for batch in evaluation_batches(data, rows, seq_length, BATCH_SIZE):
            yield batch.to(trained.device), None
            bar.update(len(batch.rows))


def mean_profile(data: SpeciesData) -> Tensor:
    """Each track's mean profile over the training windows, float32 (N, T), in stored units.

    A bin that was measured in no training window gets the track's mean; NaN where there is none.
    """
    if not data.manifest.num_windows.get("train"):
        return torch.full((data.target_length, len(data.tracks)), torch.nan)
    rows = data.rows("train")
    total = np.zeros((data.target_length, len(data.tracks)), dtype=np.float64)
    count = np.zeros_like(total)
    for row in rows:
        targets = data.targets(int(row))
        measured = ~np.isnan(targets)
        total[measured] += targets[measured]
        count += measured
    profile = np.where(count > 0, total / np.maximum(count, 1), data.track_mean)
    return torch.from_numpy(profile).float()


def summary_rows(results: list[SpeciesResult]) -> list[SummaryRow]:
    """One row per species and assay."""
    rows = []
    for result in results:
        assays = [track.assay for track in result.data.tracks]
        log1p = summarise_by_assay(result.scores.log1p.pearson(), assays)
        raw = summarise_by_assay(result.scores.raw.pearson(), assays)
        baseline = summarise_by_assay(result.baseline.log1p.pearson(), assays)
        rows += [
            SummaryRow(
                species=result.data.name,
                assay=assay,
                tracks=part.tracks,
                pearson_log1p=part.mean,
                pearson_raw=raw[assay].mean,
                baseline_log1p=baseline[assay].mean,
                constant=part.constant,
            )
            for assay, part in log1p.items()
        ]
    return rows


def write_tables(folder: Path, results: list[SpeciesResult], description: dict[str, Any]) -> None:
    """Write acc.txt per species and metrics.json over all."""
    species: dict[str, Any] = {}
    for result in results:
        log1p, raw = result.scores.log1p, result.scores.raw
        tracks = result.data.tracks
        write_acc_table(
            folder / result.data.name / "acc.txt",
            (
                AccRow(t.index, r, r2, t.identifier, t.description)
                for t, r, r2 in zip(tracks, raw.pearson().tolist(), raw.r2().tolist(), strict=True)
            ),
        )
        species[result.data.name] = {
            "windows": result.num_windows,
            "data_manifest": result.data.manifest_hash,
            "data_split": result.data.manifest.split.hash,
            "splits": result.splits,
            "pearson_log1p": float(log1p.pearson().nanmean()),
            "pearson_raw": float(raw.pearson().nanmean()),
            "mean_profile_pearson_log1p": float(result.baseline.log1p.pearson().nanmean()),
            "mean_profile_pearson_raw": float(result.baseline.raw.pearson().nanmean()),
            "tracks": [
                {"identifier": t.identifier, "assay": t.assay, "pearson_log1p": a, "pearson_raw": b}
                for t, a, b in zip(
                    tracks, log1p.pearson().tolist(), raw.pearson().tolist(), strict=True
                )
            ],
        }
    assays = [vars(row) for row in summary_rows(results)]
    write_metrics_json(
        folder / "metrics.json", description | {"species": species, "assays": assays}
    )


def draw_figures(
    folder: Path, results: list[SpeciesResult], use: ExpertUse, split: str, run: Path | None
) -> None:
    """Draw the figures of an evaluation; a missing matplotlib is named and skipped."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no figures: matplotlib is not installed (pip install 'spacescale[plot]')")
        return
    per_assay: dict[str, dict[str, list[float]]] = {}
    for result in results:
        _draw_region(folder, result, split)
        parts = per_assay.setdefault(result.data.name, {})
        values = result.scores.log1p.pearson().tolist()
        for track, value in zip(result.data.tracks, values, strict=True):
            parts.setdefault(track.assay, []).append(value)
    figures.pearson_per_assay(folder / "pearson_per_assay.png", per_assay)
    names = {result.data.name for result in results}
    encoder = {n: s.cpu().numpy() for n, s in use.encoder_shares().items() if n in names}
    decoder = {k: s.cpu().numpy() for k, s in use.decoder_shares().items()}
    if encoder or decoder:
        figures.expert_use(folder / "expert_use.png", encoder, decoder)
    if run is not None and (run / METRICS_FILE).is_file():
        figures.loss_curves(folder / "loss_curves.png", run / METRICS_FILE)


def middle_stretch(data: SpeciesData, rows: np.ndarray) -> list[int]:
    """Up to REGION_WINDOWS of the rows, from their middle on, that follow without a gap."""
    stretch = [int(rows[len(rows) // 2])]
    for row in rows[len(rows) // 2 + 1 :].tolist():
        windows, last = data.windows, stretch[-1]
        adjoins = (
            windows.chrom[row] == windows.chrom[last] and windows.start[row] == windows.end[last]
        )
        if len(stretch) == REGION_WINDOWS or not adjoins:
            break
        stretch.append(row)
    return stretch


def _draw_region(folder: Path, result: SpeciesResult, split: str) -> None:
    data, first = result.data, result.region[0]
    figures.tracks_over_region(
        folder / f"tracks_{data.name}.png",
        str(data.windows.chrom[first]),
        int(data.windows.start[first]),
        data.bin_size,
        np.concatenate([result.predicted[row] for row in result.region]),
        np.concatenate([result.observed[row] for row in result.region]),
        [track.identifier for track in data.tracks],
        f"{data.name}, {split}: observed and predicted, in multiples of the track mean",
    )
