"""Evaluate a trained model on a split: scores, tables and figures for people.

Shapes: N bins, T tracks.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spacescale.dataset.batch import SpeciesBatch
from spacescale.dataset.loader import evaluation_batches, open_datasets
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals import figures
from spacescale.evals.curves import loss_curves
from spacescale.evals.region import Region, choose_regions
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
    empty_expert_use,
    score_split,
)
from spacescale.evals.trained_model import OTHER_SPLIT, Splits, TrainedModel, load_trained
from spacescale.metrics.regression import summarise_by_assay
from spacescale.metrics.routing import ExpertUse
from spacescale.metrics.writer import METRICS_FILE
from spacescale.model.space import Space, SpaceOutput
from spacescale.parallel import comm

logger = logging.getLogger(__name__)


@dataclass
class Scored:
    """What came out for some windows of one species; parts that devices took add up."""

    scores: TrackScores
    baseline: TrackScores
    use: ExpertUse
    predicted: dict[int, np.ndarray] = field(default_factory=dict)  # row → (N, T)
    observed: dict[int, np.ndarray] = field(default_factory=dict)

    def __add__(self, other: Scored) -> Scored:
        return Scored(
            self.scores + other.scores,
            self.baseline + other.baseline,
            self.use + other.use,
            self.predicted | other.predicted,
            self.observed | other.observed,
        )


@dataclass
class SpeciesResult:
    """Scores of one species, of the model and of the baseline, and a region to draw."""

    data: SpeciesData
    splits: Splits
    num_windows: int
    region: Region  # to draw
    scored: Scored


def evaluate(
    path: Path,
    data_paths: list[Path],
    split: str,
    out: Path | None,
    both_strands: bool,
    other_split: bool = False,
    batch_size: int = 4,
    devices: Sequence[torch.device] | None = None,
    region: str | None = None,
) -> str:
    """Score `path` on a split of the data and write tables and figures; returns a summary table.

    Writes metrics.json, one SPECIES/acc.txt each and figures/*.png to `out`. The baseline beside
    every figure predicts each track's mean profile over the training windows, whatever the
    sequence. Raises UserError for data that do not fit the model, and unless other_split for data
    that are split in another way than those it was trained on. Windows are dealt out to `devices`
    (default: every visible GPU, else the CPU), `batch_size` at a time. region: what to draw,
    as `choose_regions` takes it.
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
    regions = choose_regions(datasets, split, region)
    first, *others = devices or comm.devices()
    replicas = [copy.deepcopy(trained.model).to(device) for device in others]
    replicas.append(trained.model.to(first))
    results = [
        _evaluate_species(
            trained, replicas, data, split, both_strands, batch_size, regions.get(name)
        )
        for name, data in datasets.items()
    ]
    folder = out or (trained.run or path) / "evaluation" / split
    description = {
        "model": trained.source.name,
        "split": split,
        "both_strands": both_strands,
        "definition": "Pearson per track over all positions of the split's windows, then the mean "
        "over tracks; log1p of prediction and target in multiples of the track's training mean",
    }
    write_tables(folder, results, description)
    draw_figures(folder / "figures", results, split, trained.run)
    logger.info("tables and figures: %s", folder)
    notes = [f"{r.data.name}: {OTHER_SPLIT}" for r in results if r.splits == "other"]
    return "\n".join([summary_table(summary_rows(results)), *notes])


def _evaluate_species(
    trained: TrainedModel,
    replicas: list[Space],
    data: SpeciesData,
    split: str,
    both_strands: bool,
    batch_size: int,
    region: Region | None,
) -> SpeciesResult:
    rows = data.rows(split)
    if region is None:
        raise UserError(f"{data.path}: no windows in split {split!r}")
    with (
        tqdm(total=len(rows), unit="window", desc=data.name, disable=None) as bar,
        ThreadPoolExecutor(len(replicas)) as threads,
    ):
        scoring = _Scoring(trained, data, region, mean_profile(data), both_strands, batch_size, bar)
        shares = [rows[place :: len(replicas)] for place in range(len(replicas))]
        parts = [
            threads.submit(scoring.score, *part) for part in zip(replicas, shares, strict=True)
        ]
        try:
            wait(parts, return_when=FIRST_EXCEPTION)
        finally:  # after a failure or Ctrl-C, too: leaving this block waits for all
            scoring.stopped.set()
        first, *others = [part.result() for part in parts]
    scored = sum(others, start=first)
    return SpeciesResult(data, trained.splits_of(data), len(rows), region, scored)


@dataclass(frozen=True)
class _Scoring:
    """How the windows of one species are scored, on any device."""

    trained: TrainedModel
    data: SpeciesData
    region: Region
    profile: Tensor  # (N, T), of the baseline
    both_strands: bool
    batch_size: int
    bar: tqdm
    stopped: Event = field(default_factory=Event)  # no further batch is to be begun

    def score(self, model: Space, rows: np.ndarray) -> Scored:
        """Score these rows where the model lies; the result is on the CPU."""
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        track_means = self.trained.track_means(self.data.name).to(device)
        profile = self.profile.to(device) / track_means
        baseline = TrackScores(len(track_means), device)
        use = empty_expert_use(model.config, device)
        predicted, observed = {}, {}

        def observe(batch: SpeciesBatch, prediction: Tensor, output: SpaceOutput) -> None:
            target = batch.targets.float() / track_means
            baseline.update(profile.expand_as(target), target)
            add_expert_use(use, output)
            for i, row in enumerate(batch.rows.tolist()):
                if row in self.region.rows:
                    predicted[row] = prediction[i].cpu().numpy()
                    observed[row] = target[i].cpu().numpy()
            self.bar.update(len(batch.rows))

        try:
            scores = score_split(
                model,
                self.data.name,
                self._batches(rows, model.config.seq_length, device),
                track_means,
                self.trained.trained_in_track_means,
                strand_pair=self.data.strand_pair if self.both_strands else None,
                observe=observe,
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} has not the memory for --batch {self.batch_size}; take a smaller one"
            ) from error
        return Scored(scores.cpu(), baseline.cpu(), use.cpu(), predicted, observed)

    def _batches(
        self, rows: np.ndarray, seq_length: int, device: torch.device
    ) -> Iterator[tuple[SpeciesBatch, None]]:
        for batch in evaluation_batches(self.data, rows, seq_length, self.batch_size):
            if self.stopped.is_set():
                return
            yield batch.to(device), None


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
        log1p = summarise_by_assay(result.scored.scores.log1p.pearson(), assays)
        raw = summarise_by_assay(result.scored.scores.raw.pearson(), assays)
        baseline = summarise_by_assay(result.scored.baseline.log1p.pearson(), assays)
        left_out = list(zip(assays, result.scored.scores.left_out(), strict=True))
        rows += [
            SummaryRow(
                species=result.data.name,
                assay=assay,
                tracks=part.tracks,
                pearson_log1p=part.mean,
                pearson_raw=raw[assay].mean,
                baseline_log1p=baseline[assay].mean,
                left_out=Counter(why for of, why in left_out if why and of == assay),
            )
            for assay, part in log1p.items()
        ]
    return rows


def write_tables(folder: Path, results: list[SpeciesResult], description: dict[str, Any]) -> None:
    """Write acc.txt per species and metrics.json over all."""
    species: dict[str, Any] = {}
    for result in results:
        log1p, raw = result.scored.scores.log1p, result.scored.scores.raw
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
            "left_out": Counter(why for why in result.scored.scores.left_out() if why),
            "pearson_log1p": float(log1p.pearson().nanmean()),
            "pearson_raw": float(raw.pearson().nanmean()),
            "mean_profile_pearson_log1p": float(result.scored.baseline.log1p.pearson().nanmean()),
            "mean_profile_pearson_raw": float(result.scored.baseline.raw.pearson().nanmean()),
            "tracks": [
                {
                    "identifier": t.identifier,
                    "assay": t.assay,
                    "pearson_log1p": a,
                    "pearson_raw": b,
                    "left_out": why or None,
                }
                for t, a, b, why in zip(
                    tracks,
                    log1p.pearson().tolist(),
                    raw.pearson().tolist(),
                    result.scored.scores.left_out(),
                    strict=True,
                )
            ],
        }
    assays = [vars(row) for row in summary_rows(results)]
    write_metrics_json(
        folder / "metrics.json", description | {"species": species, "assays": assays}
    )


def draw_figures(folder: Path, results: list[SpeciesResult], split: str, run: Path | None) -> None:
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
        values = result.scored.scores.log1p.pearson().tolist()
        for track, value in zip(result.data.tracks, values, strict=True):
            parts.setdefault(track.assay, []).append(value)
    figures.pearson_per_assay(folder / "pearson_per_assay.png", per_assay)
    encoder, decoder = {}, {}
    for result in results:
        use, name = result.scored.use, result.data.name
        encoder |= {n: s.numpy() for n, s in use.encoder_shares().items() if n == name}
        decoder |= {key: s.numpy() for key, s in use.decoder_shares().items()}
    if encoder or decoder:
        figures.expert_use(folder / "expert_use.png", encoder, decoder)
    if run is not None and (run / METRICS_FILE).is_file():
        loss_curves(folder / "loss_curves.png", run / METRICS_FILE)


def _draw_region(folder: Path, result: SpeciesResult, split: str) -> None:
    data, region = result.data, result.region
    shown = figures.some_tracks([track.assay for track in data.tracks])
    some = "" if len(shown) == len(data.tracks) else f", {len(shown)} of {len(data.tracks)} tracks"
    figures.tracks_over_region(
        folder / f"tracks_{data.name}.png",
        region.chrom,
        region.start,
        data.bin_size,
        region.join(result.scored.predicted)[:, shown],
        region.join(result.scored.observed)[:, shown],
        [data.tracks[place].identifier for place in shown],
        f"{data.name}, {split}{some}: observed and predicted, in multiples of the track mean",
    )
