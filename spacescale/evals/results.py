"""What an evaluation found: per track, per assay, beside the baselines, with intervals.

Shapes: D draws of blocks, T tracks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacescale.console import aligned
from spacescale.dataset.reader import SpeciesData
from spacescale.evals.genes import GeneResult
from spacescale.evals.intervals import DRAWS, LEVEL, BlockScores, Interval
from spacescale.evals.profile_baselines import PEAK_QUANTILE
from spacescale.evals.region import Region
from spacescale.evals.replicates import Replicates
from spacescale.evals.reports import AccRow, write_acc_table, write_metrics_json
from spacescale.metrics.routing import ExpertUse
from spacescale.predict.trained_model import Splits

ALL = "all"  # assays together
SCORES_FILE, BLOCKS_FILE = "metrics.json", "blocks.npz"
DEFINITION = (
    "Pearson per track over all positions of the split's windows, then the mean over tracks; log1p "
    "of prediction and target in multiples of the track's training mean; intervals: "
    f"{LEVEL:.0%} of {DRAWS} draws of blocks of the genome with replacement; peaks: bins above the "
    f"{PEAK_QUANTILE:g} quantile of the split; across tracks: correlation over an assay's tracks "
    "at each bin"
)


@dataclass
class SpeciesResult:
    """Scores of one species, of the model and of the baselines, and a region to draw."""

    data: SpeciesData
    splits: Splits
    num_windows: int
    region: Region  # to draw
    scores: BlockScores
    baselines: dict[str, BlockScores]
    train: BlockScores | None  # of training windows, where they were asked for
    genes: GeneResult | None  # where a GTF was given
    use: ExpertUse
    predicted: dict[int, np.ndarray]  # row → (N, T)
    observed: dict[int, np.ndarray]

    @cached_property
    def left_out(self) -> list[str]:
        """Why each track has no Pearson in log1p, "" where it has one."""
        return self.scores.total().left_out()

    @cached_property
    def draws(self) -> dict[str, Tensor]:
        """Pearson in log1p of every draw, (D, T): of the model, "", and of each baseline."""
        return {name: part.draws() for name, part in ({"": self.scores} | self.baselines).items()}

    def tracks_of(self) -> dict[str, list[int]]:
        """Assay → its tracks, in sorted order; last, where there are several assays, ALL."""
        return tracks_by_assay([track.assay for track in self.data.tracks])


def tracks_by_assay(assays: Sequence[str]) -> dict[str, list[int]]:
    """Assays of tracks → assay: its tracks, sorted; last, where there are several assays, ALL."""
    found = {a: [i for i, of in enumerate(assays) if of == a] for a in sorted(set(assays))}
    return found | {ALL: list(range(len(assays)))} if len(found) > 1 else found


@dataclass(frozen=True)
class Beside:
    """A baseline's figure, and how far the model is above it, over the tracks that have both."""

    value: float
    difference: float
    interval: Interval  # of the difference, drawn in pairs


@dataclass(frozen=True)
class AssayResult:
    """Mean accuracy over the tracks of one assay of one species."""

    species: str
    assay: str
    tracks: int
    pearson_log1p: float
    interval: Interval
    pearson_raw: float
    median_log1p: float  # over tracks, in place of the mean
    median_raw: float
    peaks: float  # in log1p, over the bins of peaks alone
    across_tracks: float | None  # None where an assay has too few tracks, and for ALL
    train: float | None
    baselines: dict[str, Beside]  # with `Replicates`, which is none
    left_out: dict[str, int]  # of pearson_log1p: reason → tracks
    beaten_on: int  # tracks on which the best baseline is not below the model


def assay_results(result: SpeciesResult) -> list[AssayResult]:
    """One row per assay, and one over all tracks where there are several."""
    total, peaks = result.scores.total(), result.scores.peaks.pearson()
    log1p, raw, across = total.log1p.pearson(), total.raw.pearson(), result.scores.across.pearson()
    baselines = {name: part.total().log1p.pearson() for name, part in result.baselines.items()}
    to_beat = [part for name, part in baselines.items() if name != Replicates.name]
    train = result.train.total().log1p.pearson() if result.train else None
    rows = []
    for assay, tracks in result.tracks_of().items():
        of_best = [max((float(part[t]) for part in to_beat), default=-1.0) for t in tracks]
        rows.append(
            AssayResult(
                species=result.data.name,
                assay=assay,
                tracks=len(tracks),
                pearson_log1p=_mean(log1p, tracks),
                interval=Interval.of(result.draws[""][:, tracks].nanmean(1)),
                pearson_raw=_mean(raw, tracks),
                median_log1p=float(log1p[tracks].nanmedian()),
                median_raw=float(raw[tracks].nanmedian()),
                peaks=_mean(peaks, tracks),
                across_tracks=across.get(assay),
                train=None if train is None else _mean(train, tracks),
                baselines={
                    name: Beside(
                        _mean(value, tracks),
                        float((log1p - value)[tracks].nanmean()),
                        Interval.of((result.draws[""] - result.draws[name])[:, tracks].nanmean(1)),
                    )
                    for name, value in baselines.items()
                },
                left_out=Counter(result.left_out[t] for t in tracks if result.left_out[t]),
                beaten_on=sum(
                    best >= float(log1p[t]) for t, best in zip(tracks, of_best, strict=True)
                ),
            )
        )
    return rows


def _mean(values: Tensor, tracks: Sequence[int]) -> float:
    return float(values[list(tracks)].nanmean())


def not_beaten(row: AssayResult) -> str:
    """Say where a baseline is not clearly below the model, "" where all are."""
    to_beat = [name for name in row.baselines if name != Replicates.name]
    best = max(to_beat, key=lambda name: row.baselines[name].value, default=None)
    if best is None or (beside := row.baselines[best]).interval.low > 0:
        return ""
    place = f"{row.species}, {row.assay}"
    how = "is not told apart from" if beside.interval.high > 0 else "is below"
    return (
        f"{place}: the model {how} {best} ({row.pearson_log1p:.3f} and {beside.value:.3f}, "
        f"difference {_with_interval(beside.difference, beside.interval)}; "
        f"{row.beaten_on} of {row.tracks} tracks not above the best baseline)"
    )


def summary(results: Sequence[SpeciesResult]) -> str:
    """Return aligned columns for people, and below what the model does not beat."""
    rows = [row for result in results for row in assay_results(result)]
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    trained = ("train",) if any(row.train is not None for row in rows) else ()
    header = ("species", "assay", "tracks", "Pearson log1p", "raw", "peaks", "across", *trained,
              *names, "")  # fmt: skip
    cells = [
        (
            row.species,
            row.assay,
            str(row.tracks),
            _with_interval(row.pearson_log1p, row.interval),
            f"{row.pearson_raw:.3f}",
            f"{row.peaks:.3f}",
            "" if row.across_tracks is None else f"{row.across_tracks:.3f}",
            *(f"{row.train:.3f}" for _ in trained),
            *(f"{row.baselines[n].value:.3f}" if n in row.baselines else "" for n in names),
            _left_out(row.left_out),
        )
        for row in rows
    ]
    notes = [*filter(None, map(not_beaten, rows)), *genes_table(results)]
    return "\n".join([*aligned([header, *cells], left=(0, 1, -1)), *notes])


def genes_table(results: Sequence[SpeciesResult]) -> list[str]:
    """Lines of the scores of genes, [] where none were asked for."""
    rows: list[tuple[str, ...]] = [("species", "assay", "genes", "level", "median", "within")]
    for result in results:
        if (found := result.genes) is not None:
            for assay, tracks in result.tracks_of().items():
                level, within = (torch.from_numpy(part) for part in (found.level, found.within))
                figures = (_mean(level, tracks), level[tracks].nanmedian(), _mean(within, tracks))
                numbers = (f"{float(figure):.3f}" for figure in figures)
                rows.append((result.data.name, assay, str(found.genes), *numbers))
    return ["", *aligned(rows, left=(0, 1))] if len(rows) > 1 else []


def _with_interval(value: float, interval: Interval) -> str:
    return f"{value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _left_out(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} left out: {counts}"


def write_tables(
    folder: Path, results: Sequence[SpeciesResult], model: str, split: str, both_strands: bool
) -> None:
    """Write acc.txt per species, metrics.json over all, and the blocks that intervals draw from."""
    for result in results:
        raw = result.scores.total().raw
        write_acc_table(
            folder / result.data.name / "acc.txt",
            (
                AccRow(t.index, r, r2, t.identifier, t.description)
                for t, r, r2 in zip(
                    result.data.tracks, raw.pearson().tolist(), raw.r2().tolist(), strict=True
                )
            ),
        )
    # Species → `BlockScores.moments`, by which models are compared in pairs.
    np.savez(folder / BLOCKS_FILE, **{r.data.name: r.scores.moments().numpy() for r in results})  # pyright: ignore[reportArgumentType]
    write_metrics_json(
        folder / SCORES_FILE,
        {
            "model": model,
            "split": split,
            "both_strands": both_strands,
            "definition": DEFINITION,
            "species": {result.data.name: _species_json(result, split) for result in results},
            "assays": [_plain(row) for result in results for row in assay_results(result)],
        },
    )


def _plain(row: AssayResult) -> dict[str, Any]:
    beside = {
        name: vars(part) | {"interval": list(vars(part.interval).values())}
        for name, part in row.baselines.items()
    }
    interval = [row.interval.low, row.interval.high]
    return vars(row) | {"interval": interval, "baselines": beside}


def _experts_json(use: ExpertUse, species: str) -> dict[str, Any]:
    """Shares of gate mass: "encoder" [block][expert], "decoder" {assay: [expert]}; {} without."""
    shares = use.encoder_shares()
    decoder = {a: share.tolist() for (s, a), share in use.decoder_shares().items() if s == species}
    found = {"encoder": shares[species].tolist() if species in shares else None, "decoder": decoder}
    return {part: value for part, value in found.items() if value}


def _species_json(result: SpeciesResult, split: str) -> dict[str, Any]:
    data, total = result.data, result.scores.total()
    log1p, raw = total.log1p.pearson(), total.raw.pearson()
    baselines = {name: part.total().log1p.pearson() for name, part in result.baselines.items()}
    bins = result.num_windows * data.target_length
    contigs = Counter(data.windows.chrom[data.rows(split)].tolist())
    return {
        "windows": result.num_windows,
        "contigs": dict(sorted(contigs.items())),
        "bins": bins,
        "measured": float(total.log1p.tensor()[0].mean()) / bins,
        "blocks": {"number": result.scores.blocks.count, "bp": result.scores.blocks.size_bp},
        "data_manifest": data.manifest_hash,
        "data_split": data.manifest.split.hash,
        "splits": result.splits,
        "left_out": Counter(filter(None, result.left_out)),
        "pearson_log1p": float(log1p.nanmean()),
        "pearson_raw": float(raw.nanmean()),
        "baselines_log1p": {name: float(part.nanmean()) for name, part in baselines.items()},
        "genes": result.genes.genes if result.genes else None,
        "experts": _experts_json(result.use, data.name),
        "tracks": [
            {
                "identifier": track.identifier,
                "assay": track.assay,
                "pearson_log1p": float(log1p[i]),
                "pearson_raw": float(raw[i]),
                "peaks_log1p": float(result.scores.peaks.pearson()[i]),
                "baselines_log1p": {name: float(part[i]) for name, part in baselines.items()},
                "gene_level": float(result.genes.level[i]) if result.genes else None,
                "within_genes": float(result.genes.within[i]) if result.genes else None,
                "left_out": result.left_out[i] or None,
            }
            for i, track in enumerate(data.tracks)
        ],
    }
