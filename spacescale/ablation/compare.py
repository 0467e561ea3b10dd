"""Differences between arms, with one interval over windows and seeds.

Windows: blocks of the genome are drawn with replacement, the same ones for every run. Seeds: see
`tasks.seeds`; arms are not paired by seed, as nothing is left that two runs of other shapes would
share but the order of the windows. Shapes: D draws, K blocks, R runs of an arm, T tracks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spacescale.evals.intervals import Interval, block_draws, drawn_pearson
from spacescale.evals.results import ALL, tracks_by_assay
from spacescale.metrics.regression import PearsonMoments
from spacescale.tasks.resampling import holm
from spacescale.tasks.seeds import SeedDraws

DRAWS = 10_000
SEED = 0
Row = tuple[str, str]  # species and assay; ALL for all assays of a species, or all species
OVER_ALL: Row = (ALL, ALL)  # the mean over species of their mean over tracks


@dataclass(frozen=True)
class SpeciesTracks:
    """The tracks of one species, and how many blocks its windows lie in."""

    identifiers: tuple[str, ...]
    assays: tuple[str, ...]
    blocks: int


@dataclass(frozen=True)
class ArmScores:
    """Species → moments of each run of an arm, float64 (R, K, 6, T)."""

    name: str
    moments: Mapping[str, Tensor]

    @property
    def runs(self) -> int:
        """How many there are."""
        return len(next(iter(self.moments.values())))

    def pearson(self, species: str) -> Tensor:
        """Pearson in log1p of each run over all blocks, float64 (R, T)."""
        sums = self.moments[species].sum(1)
        return torch.stack([PearsonMoments.from_tensor(part).pearson() for part in sums])


@dataclass(frozen=True)
class Difference:
    """How far an arm is above the first one.

    p: two-sided; corrected: for all comparisons of its family by Holm's method. The last row, over
    all, is a family of its own; the others are one together, of all arms.
    """

    arm: str
    row: Row
    value: float
    interval: Interval
    p: float
    corrected: float


@dataclass(frozen=True)
class Comparison:
    """The scores of arms, and how far each is above the first.

    scores: row → arm → of each run, the last row being over all. tracks: row → how many are
    compared, and how many there are: one that was not measured, or is constant, is left out.
    """

    scores: dict[Row, dict[str, list[float]]]
    tracks: dict[Row, tuple[int, int]]
    differences: list[Difference]


def compare(
    species: Mapping[str, SpeciesTracks], arms: Sequence[ArmScores], draws: int = DRAWS
) -> Comparison:
    """Hold every arm against the first."""
    pearson = {arm.name: {name: arm.pearson(name) for name in species} for arm in arms}
    rows = _Rows(species, pearson.values())
    scores = {arm: rows.means(of) for arm, of in pearson.items()}
    return Comparison(
        {row: {arm: of[row].tolist() for arm, of in scores.items()} for row in rows.counts},
        rows.counts,
        _differences(species, arms, rows, scores, draws) if len(arms) > 1 else [],
    )


class _Rows:
    """Which tracks are compared, and the means over those of each row."""

    def __init__(
        self, species: Mapping[str, SpeciesTracks], pearson: Iterable[Mapping[str, Tensor]]
    ):
        """pearson: of each arm, species → (R, T)."""
        self.tracks: dict[Row, list[int]] = {}
        self.counts: dict[Row, tuple[int, int]] = {}
        self.wholes: list[Row] = []  # of each species
        arms = list(pearson)
        for name, of in species.items():
            kept = torch.cat([arm[name] for arm in arms]).isfinite().all(0).tolist()
            for assay, tracks in tracks_by_assay(of.assays).items():
                self.tracks[name, assay] = [track for track in tracks if kept[track]]
                self.counts[name, assay] = len(self.tracks[name, assay]), len(tracks)
            self.wholes.append((name, assay))
        if len(species) > 1:
            pairs = [self.counts[row] for row in self.wholes]
            self.counts[OVER_ALL] = sum(some for some, _ in pairs), sum(n for _, n in pairs)

    def means(self, values: Mapping[str, Tensor]) -> dict[Row, Tensor]:
        """Values (…, T) of each species → their mean over the tracks of each row (…)."""
        found = {
            row: values[row[0]][..., tracks].nanmean(-1) for row, tracks in self.tracks.items()
        }
        if OVER_ALL in self.counts:
            found[OVER_ALL] = torch.stack([found[row] for row in self.wholes]).nanmean(0)
        return found


def _differences(
    species: Mapping[str, SpeciesTracks],
    arms: Sequence[ArmScores],
    rows: _Rows,
    scores: Mapping[str, Mapping[Row, Tensor]],
    draws: int,
) -> list[Difference]:
    random = np.random.default_rng(SEED)
    blocks = {name: block_draws(of.blocks, draws, random) for name, of in species.items()}
    first, *others = arms
    drawn_first = _drawn(first, rows, blocks)
    found = []
    for arm in others:
        drawn = _drawn(arm, rows, blocks)
        seeds = SeedDraws((first.runs, arm.runs), draws, random, single_has_seed=True)
        for row in rows.counts:
            value = float(scores[arm.name][row].mean() - scores[first.name][row].mean())
            base, other = seeds.means([drawn_first[row].numpy(), drawn[row].numpy()])
            of = torch.from_numpy(other - base)
            p = p_value(of)
            found.append(Difference(arm.name, row, value, Interval.of(of), p, p))
    return _corrected(found, last=list(rows.counts)[-1])


def _drawn(arm: ArmScores, rows: _Rows, blocks: Mapping[str, Tensor]) -> dict[Row, Tensor]:
    """Row → score of each run in each draw of blocks, (R, D). blocks: as `block_draws`."""
    runs = [
        rows.means({name: drawn_pearson(arm.moments[name][run], blocks[name]) for name in blocks})
        for run in range(arm.runs)
    ]
    return {row: torch.stack([run[row] for run in runs]) for row in rows.counts}


def p_value(draws: Tensor) -> float:
    """Twice the share of draws on the side of 0 where fewer are; NaN where none is a number."""
    draws = draws[draws.isfinite()]
    if not len(draws):
        return float("nan")
    fewer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(draws) + 1))


def _corrected(differences: Sequence[Difference], last: Row) -> list[Difference]:
    """Differences with their corrected p, those of the last row as a family of their own."""
    found = {(d.arm, d.row): d for d in differences}
    for family in ([d for d in differences if (d.row == last) is of] for of in (True, False)):
        for d, p in zip(family, holm([d.p for d in family]), strict=True):
            found[d.arm, d.row] = replace(d, corrected=p)
    return list(found.values())
