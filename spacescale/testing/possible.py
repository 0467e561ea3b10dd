"""How much of what is possible a model has learnt, on genomes whose grammar is known.

The best possible prediction of a simulated track is its signal without the counting noise. Its
correlation with the noisy targets is the ceiling, below 1, of every score on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from spacescale.console import aligned
from spacescale.dataset.reader import SpeciesData
from spacescale.metrics.regression import summarise_by_assay
from spacescale.metrics.track_scale import nonzero_means
from spacescale.objectives.track_prediction import TrackScores
from spacescale.testing.simulated_genomes import expected_signal

MARGIN_BP = 2_048  # on either side of the target, beyond which no motif has an effect


def possible_pearson(data: SpeciesData, split: str) -> torch.Tensor:
    """Pearson in log1p of the noise-free signal with a split's targets, float64 (T,).

    data: a data set made of `write_simulated_genomes` files, as means over bins.
    """
    means = nonzero_means(data.track_mean)
    scores = TrackScores(len(means))
    span = data.target_length * data.bin_size
    for row in data.rows(split).tolist():
        codes = data.sequence(row, span + 2 * MARGIN_BP)
        signal = expected_signal(codes, data.name)[:, MARGIN_BP:-MARGIN_BP]
        binned = signal.reshape(len(signal), data.target_length, data.bin_size).mean(2).T
        target = torch.from_numpy(data.targets(row).astype(np.float32)) / means
        scores.update(torch.from_numpy(binned) / means, target)
    return scores.log1p.pearson()


def share_of_possible(datasets: Iterable[SpeciesData], metrics: Path) -> str:
    """Say for each species and assay what was reached, of what, from evaluate's metrics.json."""
    found = json.loads(metrics.read_text(encoding="utf-8"))
    rows = [("species", "assay", "reached", "possible", "share", "")]
    for data in datasets:
        assays = [track.assay for track in data.tracks]
        possible = summarise_by_assay(possible_pearson(data, found["split"]), assays)
        rows += [
            (
                data.name,
                row["assay"],
                f"{row['pearson_log1p']:.3f}",
                f"{possible[row['assay']].mean:.3f}",
                f"{row['pearson_log1p'] / possible[row['assay']].mean:.0%}",
                "",
            )
            for row in found["assays"]
            if row["species"] == data.name and row["assay"] in possible
        ]
    return "\n".join(aligned(rows, left=(0, 1)))
