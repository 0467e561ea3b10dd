"""How sure a correlation is: block bootstrap over stretches of the genome.

Neighbouring windows and bins are alike, so that single bins would promise too much. Whole blocks
are drawn with replacement instead (Künsch 1989, Annals of Statistics 17:1217), and moments of
blocks add: a draw is a sum. Shapes: K blocks, D draws, T tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spacescale.dataset.reader import SpeciesData
from spacescale.evals.across_tracks import AcrossTracks
from spacescale.metrics.regression import PearsonMoments
from spacescale.objectives.track_prediction import TrackScores

DRAWS = 1000
LEVEL = 0.95
FEWEST_BLOCKS = 20  # of megabases; shorter blocks are taken where there are fewer of them
BLOCK_BP = (1_000_000, 500_000, 200_000, 100_000, 50_000, 20_000)
SEED = 0
_DRAWS_AT_ONCE = 50


@dataclass(frozen=True)
class Blocks:
    """Which stretch of the genome each window belongs to: row of the data set → 0 … count - 1."""

    of_row: dict[int, int]
    count: int
    size_bp: int

    def draws(self) -> Tensor:
        """How often each draw takes each block, float64 (D, K); the same at every call."""
        return block_draws(self.count, DRAWS, np.random.default_rng(SEED))


def block_draws(blocks: int, draws: int, random: np.random.Generator) -> Tensor:
    """How often each draw, with replacement, takes each block: float64 (D, K)."""
    counts = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws)
    return torch.from_numpy(counts.astype(np.float64))


def drawn_pearson(moments: Tensor, draws: Tensor) -> Tensor:
    """Pearson of every track in every draw, float64 (D, T).

    moments: of each block, (K, 6, T) as `PearsonMoments.tensor`; draws: as `block_draws`.
    """
    found = []
    for counts in draws.split(_DRAWS_AT_ONCE):
        drawn = torch.einsum("dk,kst->sdt", counts, moments)
        flat = PearsonMoments.from_tensor(drawn.flatten(1))
        found.append(flat.pearson().view(len(counts), -1))
    return torch.cat(found)


def blocks_of(data: SpeciesData, rows: np.ndarray) -> Blocks:
    """Cut the contigs of these windows into the longest blocks that are FEWEST_BLOCKS in number.

    A window belongs to the block that its target begins in.
    """
    chrom, start = data.windows.chrom[rows].tolist(), data.windows.start[rows].tolist()
    for size_bp in BLOCK_BP:
        places = [(name, first // size_bp) for name, first in zip(chrom, start, strict=True)]
        number = {place: i for i, place in enumerate(dict.fromkeys(places))}
        if len(number) >= FEWEST_BLOCKS:
            break
    of_row = {int(row): number[place] for row, place in zip(rows, places, strict=True)}
    return Blocks(of_row, len(number), size_bp)


class BlockScores:
    """Scores of one species' tracks, kept apart for each block.

    Beside all bins, the peaks alone: bins whose target is above `peak` (T,), in track means; and
    the tracks of an assay held against each other (`across_tracks`).
    """

    def __init__(
        self,
        blocks: Blocks,
        peak: Tensor,
        assays: Sequence[str],
        device: torch.device | str = "cpu",
    ):
        self.blocks, self.peak = blocks, peak.to(device)
        self.parts = [TrackScores(len(peak), device) for _ in range(blocks.count)]
        self.peaks = PearsonMoments(len(peak), device)
        self.across = AcrossTracks(assays, device)

    def __add__(self, other: BlockScores) -> BlockScores:
        both = BlockScores(self.blocks, self.peak, self.across.assays)
        both.parts = [a + b for a, b in zip(self.parts, other.parts, strict=True)]
        both.peaks = self.peaks + other.peaks
        both.across = self.across + other.across
        return both

    def cpu(self) -> BlockScores:
        """The same on the CPU."""
        there = BlockScores(self.blocks, self.peak, self.across.assays)
        there.parts = [part.cpu() for part in self.parts]
        there.peaks = PearsonMoments.from_tensor(self.peaks.tensor().cpu())
        there.across = self.across.cpu()
        return there

    def update(self, rows: Sequence[int], prediction: Tensor, target: Tensor) -> None:
        """Add windows (B, N, T), in multiples of the track mean, of these rows."""
        for i, row in enumerate(rows):
            self.parts[self.blocks.of_row[row]].update(prediction[i], target[i])
        self.across.update(prediction, target)
        self.peaks.update(
            prediction.clamp(min=0).log1p(),
            torch.where(target > self.peak, target, torch.nan).log1p(),
        )

    def total(self) -> TrackScores:
        """Scores over all blocks."""
        return sum(self.parts[1:], start=self.parts[0])

    def moments(self) -> Tensor:
        """Moments in log1p of every block, float64 (K, 6, T) as `PearsonMoments.tensor`."""
        return torch.stack([part.log1p.tensor() for part in self.parts])

    def draws(self) -> Tensor:
        """Pearson in log1p of every track in every draw of blocks, float64 (D, T)."""
        return drawn_pearson(self.moments(), self.blocks.draws())


@dataclass(frozen=True)
class Interval:
    """Where LEVEL of the draws lie; NaN where there is none."""

    low: float
    high: float

    @classmethod
    def of(cls, draws: Tensor) -> Interval:
        """Of a figure in every draw, (D,)."""
        if draws.isnan().all():
            return cls(float("nan"), float("nan"))
        outside = (1 - LEVEL) / 2
        low, high = torch.nanquantile(draws, torch.tensor([outside, 1 - outside]).to(draws))
        return cls(float(low), float(high))
