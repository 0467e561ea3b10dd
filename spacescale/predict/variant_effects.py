"""What a variant does to predicted tracks.

Both alleles are predicted in the same windows and compared over a mask around the variant. Shapes:
N bins, T tracks, A averages. Positions are 0-based, half-open, in bp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spacescale.genome.dna import encode
from spacescale.genome.open_genome import OpenGenome
from spacescale.genome.tracks import Track
from spacescale.predict.pool import Pool
from spacescale.predict.predictor import Predictor, Strands, Unit
from spacescale.predict.regions import bases, require_shifts
from spacescale.predict.vcf import Variant

Score = Literal["log2_ratio", "sum", "log_sum", "d2", "log_d2"]
WIDE_MASK_BP, MASK_BP = 2_001, 501  # of histone marks, which are broad, and of all else
WIDE_ASSAYS = frozenset({"histone_chip"})

# Reference and alternative (A, N, T), 0 outside the mask, and a pseudocount → (A, T).
_Scorer = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _total(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1)


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(axis=1))


SCORES: dict[Score, tuple[str, _Scorer]] = {
    "log2_ratio": (
        "log2 of (sum of ALT + c) / (sum of REF + c)",
        lambda ref, alt, c: np.log2((_total(alt) + c) / (_total(ref) + c)),
    ),
    "sum": ("sum of ALT - REF", lambda ref, alt, c: _total(alt - ref)),
    "log_sum": (
        "sum of log2(ALT + c) - log2(REF + c)",
        lambda ref, alt, c: _total(np.log2(alt + c) - np.log2(ref + c)),
    ),
    "d2": ("Euclidean distance over bins", lambda ref, alt, c: _norm(alt - ref)),
    "log_d2": (
        "Euclidean distance over bins of log2(x + c)",
        lambda ref, alt, c: _norm(np.log2(alt + c) - np.log2(ref + c)),
    ),
}


@dataclass(frozen=True)
class Scoring:
    """How effects are measured.

    pseudocount: c, in `unit`. mask_bp: bases around the variant whose bins count, None for what
    suits each track's assay. shifts: bp by which windows are moved, both alleles alike.
    """

    scores: tuple[Score, ...] = ("log2_ratio",)
    unit: Unit = "stored"
    pseudocount: float = 1.0
    mask_bp: int | None = None
    shifts: tuple[int, ...] = (-1, 0, 1)


@dataclass(frozen=True)
class Effect:
    """Of one variant on the tracks chosen, float32 (T,) each.

    mean, spread: of each score; the spread is the standard deviation over the averages: an effect
    that is smaller is noise. ref, alt: sums over the mask.
    """

    ref: np.ndarray
    alt: np.ndarray
    mean: dict[Score, np.ndarray]
    spread: dict[Score, np.ndarray]
    averages: int


class EffectPredictor:
    """Scores variants of one genome by one model.

    The variant's first base lies in the middle of the central bin of the predicted span, before
    shifts. Averages are all shifts on both strands. An allele of another length than REF moves
    what lies behind it: so it is predicted twice, with the left flank in its place and with the
    right one, and both take part in the averages.
    """

    def __init__(
        self,
        predictor: Predictor,
        genome: OpenGenome,
        scoring: Scoring,
        rows: Sequence[int] | None = None,
    ):
        """rows: of the tracks, default all.

        Raises UserError for a unit that is not known or shifts of a bin or more.
        """
        predictor.require_unit(scoring.unit)
        require_shifts(scoring.shifts, predictor.bin_size)
        self.predictor, self.genome, self.scoring = predictor, genome, scoring
        self.rows = list(range(len(predictor.tracks)) if rows is None else rows)
        bins, bin_size = predictor.span // predictor.bin_size, predictor.bin_size
        self._before = (predictor.window - predictor.span) // 2 + bins // 2 * bin_size
        self._before += bin_size // 2  # bp of the window before the variant, unshifted
        centre = bins // 2 * bin_size + bin_size // 2  # of the span
        self._masks = np.stack(
            [self._mask(predictor.tracks[row], centre, bins) for row in self.rows], axis=1
        )

    def _mask(self, track: Track, centre: int, bins: int) -> np.ndarray:
        """1 where a bin counts for a track, else 0: float32 (N,)."""
        wide = WIDE_MASK_BP if track.assay in WIDE_ASSAYS else MASK_BP
        half = (self.scoring.mask_bp or wide) // 2
        starts = self.predictor.bin_size * np.arange(bins)
        counts = (starts <= centre + half) & (starts + self.predictor.bin_size > centre - half)
        return counts.astype(np.float32)

    def score(self, variants: Sequence[Variant]) -> list[Effect]:
        """Effects of variants that `reason_to_skip` has passed, in their order."""
        ((_, effects),) = self.score_batches([variants], Pool(self.predictor))
        return effects

    def score_batches(
        self, batches: Iterable[Sequence[Variant]], pool: Pool
    ) -> Iterator[tuple[Sequence[Variant], list[Effect]]]:
        """Yield each batch with its effects, as `score`, in the order of the batches."""
        found = pool.predict(self._work(batches), self.scoring.unit, self.rows)
        for ((variants, sizes), forward), (_, reverse) in zip(found, found, strict=True):
            effects, at = [], 0
            # Magnitudes: files of one strand may hold it below 0.
            both = np.abs(forward), np.abs(reverse)
            for n in sizes:
                ref = np.concatenate([strand[at : at + n] for strand in both])
                alt = np.concatenate([strand[at + n : at + 2 * n] for strand in both])
                effects.append(self._compare(ref * self._masks, alt * self._masks))
                at += 2 * n
            yield variants, effects

    def _work(
        self, batches: Iterable[Sequence[Variant]]
    ) -> Iterator[tuple[tuple[Sequence[Variant], list[int]], np.ndarray, Strands]]:
        """Each batch twice, once for either strand: variants and how many windows an allele has."""
        for variants in batches:
            windows = [self._windows(variant) for variant in variants]
            codes = np.concatenate([part for pair in windows for part in pair])
            key = variants, [len(ref) for ref, _ in windows]
            yield key, codes, "forward"
            yield key, codes, "reverse"

    def _compare(self, ref: np.ndarray, alt: np.ndarray) -> Effect:
        """(A, N, T) each."""
        by_average: dict[Score, np.ndarray] = {
            score: SCORES[score][1](ref, alt, self.scoring.pseudocount)
            for score in self.scoring.scores
        }
        return Effect(
            ref=_total(ref).mean(0),
            alt=_total(alt).mean(0),
            mean={score: found.mean(0) for score, found in by_average.items()},
            spread={score: found.std(0) for score, found in by_average.items()},
            averages=len(ref),
        )

    def _windows(self, variant: Variant) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the reference and of the alternative allele, (windows, L) each."""
        starts = [variant.start - self._before + shift for shift in self.scoring.shifts]
        if len(variant.ref) == len(variant.alt):
            ref = [self._reference(variant, start) for start in starts]
            alt = [self._left_in_place(variant, start) for start in starts]
            return np.stack(ref), np.stack(alt)
        ref = [self._reference(variant, start) for start in starts] * 2
        alt = [self._left_in_place(variant, start) for start in starts]
        alt += [self._right_in_place(variant, start) for start in starts]
        return np.stack(ref), np.stack(alt)

    def _reference(self, variant: Variant, start: int) -> np.ndarray:
        return bases(self.genome.contigs[variant.chrom], start, self.predictor.window)

    def _left_in_place(self, variant: Variant, start: int) -> np.ndarray:
        contig, length = self.genome.contigs[variant.chrom], self.predictor.window
        left = bases(contig, start, variant.start - start)
        allele = encode(variant.alt)
        right = bases(contig, variant.end, max(length - len(left) - len(allele), 0))
        return np.concatenate([left, allele, right])[:length]

    def _right_in_place(self, variant: Variant, start: int) -> np.ndarray:
        contig, length = self.genome.contigs[variant.chrom], self.predictor.window
        right = bases(contig, variant.end, max(start + length - variant.end, 0))
        allele = encode(variant.alt)
        wanted = max(length - len(right) - len(allele), 0)
        left = bases(contig, variant.start - wanted, wanted)
        return np.concatenate([left, allele, right])[-length:]
