"""Scores of genes: is the level right, and is the shape along the gene?

A gene's level is the sum of a track over its exons; across genes the levels of prediction and
target are correlated, per track, as log1p. Within a gene, the bins of its exons are; the mean over
genes is reported. Genes count that lie with all exons inside the split's windows. Of stranded
tracks each gene is held against the one of its own strand. Shapes: G genes, T tracks, N bins.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.genome.text_files import text_lines, whole_number

FEWEST_BINS = 8  # of exons, for a correlation within a gene
_GENE_ID = re.compile(r'gene_id "?([^";]+)')


@dataclass(frozen=True)
class Gene:
    """Exons of one gene, merged over its transcripts: sorted, 0-based half-open, bp."""

    name: str
    chrom: str
    strand: str  # "+" or "-"
    exons: tuple[tuple[int, int], ...]


def read_genes(path: Path) -> list[Gene]:
    """Read the exons of a GTF, plain or .gz, put together by gene_id.

    Raises UserError with file:line for what is no GTF, and where there is no exon.
    """
    exons: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for number, line in text_lines(path, "the GTF"):
        if line.startswith("#") or not line.strip():
            continue
        cells = line.rstrip("\r\n").split("\t")
        start, end = (whole_number(cell) for cell in (cells[3:5] if len(cells) > 4 else ("", "")))
        if len(cells) != 9 or start is None or end is None or not 0 < start <= end:
            raise UserError(
                f"{path}:{number}: no line of a GTF, nine cells between tabs with a start and an "
                "end of 1-based positions in the fourth and fifth"
            )
        name = _GENE_ID.search(cells[8])
        if cells[2] == "exon" and name and cells[6] in ("+", "-"):
            exons[name[1], cells[0], cells[6]].append((start - 1, end))
    if not exons:
        raise UserError(f"{path}: no exon with a gene_id and a strand; give a GTF")
    return [Gene(*gene, exons=_merged(parts)) for gene, parts in exons.items()]


def _merged(intervals: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


@dataclass(frozen=True)
class _Part:
    """What a gene's exons take of one window: bins, and their bp in each."""

    gene: int
    bins: np.ndarray
    bp: np.ndarray


@dataclass(frozen=True)
class GeneResult:
    """Of one species' tracks, float64 (T,), NaN where undefined; genes: how many counted."""

    level: np.ndarray
    within: np.ndarray
    genes: int


class GeneScores:
    """Collects predictions and targets of one species over the exons of genes.

    genes: of which those with all exons inside the targets of `rows` are scored. Windows of a
    split that overlap are no matter: each exon's base counts once. Raises UserError where there is
    no such gene.
    """

    def __init__(self, data: SpeciesData, genes: Sequence[Gene], rows: np.ndarray):
        self.data = data
        self.parts = _parts(data, genes, rows)  # row → its parts of genes
        self.strands = [gene.strand for gene in genes]
        if not self.parts:
            known = shorten(sorted({gene.chrom for gene in genes}))
            here = shorten(sorted(set(data.windows.chrom[rows].tolist())))
            raise UserError(
                f"{data.path}: no gene has all its exons in the windows to be scored; the "
                f"genes lie on {known}, the windows on {here}"
            )
        self._found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def update(self, row: int, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add a window, once: (N, T) each, in multiples of the track mean. From any thread."""
        for part in self.parts.get(row, ()):
            self._found[part.gene, row] = prediction[part.bins], target[part.bins], part.bp

    def result(self) -> GeneResult:
        """Correlate. Unmeasured bins leave a gene out of the tracks they are unmeasured in."""
        numbers = sorted({gene for gene, _ in self._found})
        whole = [
            [
                np.concatenate(parts)
                for parts in zip(*(self._found[key] for key in keys), strict=True)
            ]
            for gene in numbers
            for keys in [sorted(key for key in self._found if key[0] == gene)]
        ]
        levels = np.array(
            [[(values * bp[:, None]).sum(0) for values in (x, y)] for x, y, bp in whole]
        ).reshape(len(whole), 2, len(self.data.tracks))  # (G, 2, T)
        strands = np.array([self.strands[gene] for gene in numbers])
        counted = self._on_own_strand(levels[:, 1], strands)
        logs = np.log1p(np.maximum(levels, 0))
        level, within = [], []
        for track in range(len(self.data.tracks)):
            of = np.flatnonzero(counted[:, track]).tolist()
            level.append(_pearson(logs[of, 0, track], logs[of, 1, track]))
            shapes = [
                _pearson(*(np.log1p(np.maximum(part[:, track], 0)) for part in whole[place][:2]))
                for place in of
                if len(whole[place][2]) >= FEWEST_BINS
            ]
            defined = [r for r in shapes if not math.isnan(r)]
            within.append(float(np.mean(defined)) if defined else math.nan)
        return GeneResult(np.array(level), np.array(within), len(whole))

    def _on_own_strand(self, targets: np.ndarray, strands: np.ndarray) -> np.ndarray:
        """Which genes count for which tracks, bool (G, T).

        Which of two paired tracks is the forward one no table says; it is the one that has more
        of its coverage on genes of the forward strand. targets: (G, T).
        """
        forward = np.log(
            (np.nansum(targets[strands == "+"], 0) + 1e-6)
            / (np.nansum(targets[strands == "-"], 0) + 1e-6)
        )
        pair = self.data.strand_pair
        unstranded = pair == np.arange(len(pair))
        takes_forward = forward >= forward[pair]
        fits = np.where(takes_forward[None], (strands == "+")[:, None], (strands == "-")[:, None])
        return (unstranded[None] | fits) & ~np.isnan(targets)


def _parts(data: SpeciesData, genes: Sequence[Gene], rows: np.ndarray) -> dict[int, list[_Part]]:
    """Row → what it holds of genes whose exons all lie in these windows; each base once."""
    windows, size = data.windows, data.bin_size
    by_chrom: dict[str, list[int]] = defaultdict(list)
    for row in sorted(rows.tolist(), key=lambda row: int(windows.start[row])):
        by_chrom[str(windows.chrom[row])].append(row)
    found: dict[int, list[_Part]] = defaultdict(list)
    for number, gene in enumerate(genes):
        parts, missing = [], sum(end - start for start, end in gene.exons)
        done = -1  # bases before it are in a window already
        for row in by_chrom.get(gene.chrom, ()):
            first, last = int(windows.start[row]), int(windows.end[row])
            if last <= gene.exons[0][0] or first >= gene.exons[-1][1]:
                continue
            bp = np.zeros(data.target_length, dtype=np.int64)
            for start, end in gene.exons:
                inside = np.arange(max(start, first, done), min(end, last))
                np.add.at(bp, (inside - first) // size, 1)
            if bp.any():
                bins = np.flatnonzero(bp)
                parts.append((row, _Part(number, bins, bp[bins])))
                missing -= int(bp.sum())
            done = max(done, last)
        if not missing:
            for row, part in parts:
                found[row].append(part)
    return dict(found)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.isnan(y).any() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])
