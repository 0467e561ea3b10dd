"""What a variant does to predicted tracks, and to features; and how likely its bases are.

Both alleles are predicted in the same windows and compared over a mask around the variant. Shapes:
N bins, T tracks, C channels, A averages. Positions are 0-based, half-open, in bp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spacescale.genome.dna import encode
from spacescale.genome.open_genome import OpenGenome
from spacescale.genome.tracks import Track
from spacescale.predict.effect_scores import (
    DISTANCES,
    LIKELIHOODS,
    TRACK_SCORES,
    Distance,
    Likelihood,
    Score,
    TrackScore,
    log_ratio,
)
from spacescale.predict.pool import Call, Pool
from spacescale.predict.predictor import Predictor, Strands, Unit
from spacescale.predict.regions import bases, require_shifts
from spacescale.predict.vcf import Variant

WIDE_MASK_BP, MASK_BP = 2_001, 501  # of histone marks, which are broad, and of all else
WIDE_ASSAYS = frozenset({"histone_chip"})
Alleles = tuple[np.ndarray, np.ndarray]  # of REF and of ALT
STRANDS: tuple[Strands, ...] = ("forward", "reverse")


@dataclass(frozen=True)
class Scoring:
    """How effects are measured.

    pseudocount: c, in `unit`. mask_bp: bases around the variant whose bins count, None for what
    suits each track's assay. shifts: bp by which windows are moved, both alleles alike. layer:
    whose features distances compare, their mean over the positions that touch the mask.
    """

    scores: tuple[Score, ...] = ("log2_ratio",)
    unit: Unit = "stored"
    pseudocount: float = 1.0
    mask_bp: int | None = None
    shifts: tuple[int, ...] = (-1, 0, 1)
    layer: str = "pointwise"

    @property
    def of_tracks(self) -> list[TrackScore]:
        """Scores that compare predicted tracks."""
        return [score for score in TRACK_SCORES if score in self.scores]

    @property
    def distances(self) -> list[Distance]:
        """Scores that compare features."""
        return [score for score in DISTANCES if score in self.scores]

    @property
    def likelihoods(self) -> list[Likelihood]:
        """Scores that compare how likely two bases are."""
        return [score for score in LIKELIHOODS if score in self.scores]


@dataclass(frozen=True)
class Effect:
    """Of one variant on the tracks chosen, (T,) each; what compares no tracks is of all, (1,).

    mean, spread: of each score; the spread is the standard deviation over the averages: an effect
    that is smaller is noise. ref, alt: sums over the mask; (0,) where no tracks are compared.
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

        Raises UserError for a unit that is not known, no such layer, shifts of a bin or more, or
        likelihoods of a model that predicts no bases.
        """
        if scoring.of_tracks:
            predictor.require_unit(scoring.unit)
        if scoring.likelihoods:
            predictor.require_bases()
        predictor.require_layer(scoring.layer)
        require_shifts(scoring.shifts, predictor.bin_size)
        self.predictor, self.genome, self.scoring = predictor, genome, scoring
        every = range(len(predictor.tracks)) if rows is None else rows
        self.rows = list(every) if scoring.of_tracks else []
        bins, bin_size = predictor.span // predictor.bin_size, predictor.bin_size
        self._before = (predictor.window - predictor.span) // 2 + bins // 2 * bin_size
        self._before += bin_size // 2  # bp of the window before the variant, unshifted
        centre = bins // 2 * bin_size + bin_size // 2  # of the span
        self._masks = np.zeros((bins, len(self.rows)), np.float32)
        for place, row in enumerate(self.rows):
            self._masks[:, place] = self._mask(predictor.tracks[row], centre, bins)
        self._calls = self._calls_of_a_batch()

    def _calls_of_a_batch(self) -> list[Call]:
        """What the model is asked of the windows of both alleles; both strands of either."""
        calls: list[Call] = []
        if self.scoring.of_tracks:
            calls += [("predict", (self.scoring.unit, s, self.rows)) for s in STRANDS]
        if self.scoring.distances:
            around = _around(self._before, self.scoring.mask_bp or MASK_BP)
            calls += [("mean_features", (self.scoring.layer, s, around)) for s in STRANDS]
        return calls

    def _mask(self, track: Track, centre: int, bins: int) -> np.ndarray:
        """1 where a bin counts for a track, else 0: float32 (N,)."""
        wide = WIDE_MASK_BP if track.assay in WIDE_ASSAYS else MASK_BP
        first, end = _around(centre, self.scoring.mask_bp or wide)
        starts = self.predictor.bin_size * np.arange(bins)
        counts = (starts < end) & (starts + self.predictor.bin_size > first)
        return counts.astype(np.float32)

    def score(self, variants: Sequence[Variant]) -> list[Effect]:
        """Effects of variants that `reason_to_skip` has passed, in their order."""
        ((_, effects),) = self.score_batches([variants], Pool(self.predictor))
        return effects

    def score_batches(
        self, batches: Iterable[Sequence[Variant]], pool: Pool
    ) -> Iterator[tuple[Sequence[Variant], list[Effect]]]:
        """Yield each batch with its effects, as `score`, in the order of the batches."""
        answers = pool.answers(self._work(batches))
        asked = len(self._calls) + len(STRANDS) * len(self.scoring.likelihoods)
        for of_batch in zip(*[answers] * asked, strict=True):
            variants, sizes = of_batch[0][0]
            found = [answer for _, answer in of_batch]
            of_alleles, of_bases = found[: len(self._calls)], found[len(self._calls) :]
            # Magnitudes: files of one strand may hold it below 0.
            tracks = [np.abs(part) for part in of_alleles[: 2 * bool(self.scoring.of_tracks)]]
            features = [part.astype(np.float64) for part in of_alleles[len(tracks) :]]
            effects, at = [], 0
            for variant, n in zip(variants, sizes, strict=True):
                likely = self._log_ratios(variant, [part[at : at + n] for part in of_bases])
                alleles = _alleles(tracks, 2 * at, n), _alleles(features, 2 * at, n)
                effects.append(self._compare(*alleles, likely))
                at += n
            yield variants, effects

    def _work(
        self, batches: Iterable[Sequence[Variant]]
    ) -> Iterator[tuple[tuple[Sequence[Variant], list[int]], np.ndarray, Call]]:
        """Each batch once for every call: variants and how many windows an allele has."""
        for variants in batches:
            windows = [self._windows(variant) for variant in variants]
            codes = np.concatenate([part for pair in windows for part in pair])
            key = variants, [len(ref) for ref, _ in windows]
            for call in self._calls:
                yield key, codes, call
            yield from self._work_on_bases(key, [ref for ref, _ in windows])

    def _work_on_bases(
        self, key: tuple[Sequence[Variant], list[int]], ref: Sequence[np.ndarray]
    ) -> Iterator[tuple[tuple[Sequence[Variant], list[int]], np.ndarray, Call]]:
        """The first base of each variant in its windows of the reference, both strands each."""
        of_shifts = self._before - np.array(self.scoring.shifts)
        places = np.concatenate([np.resize(of_shifts, len(windows)) for windows in ref])
        for score in self.scoring.likelihoods:
            for strand in STRANDS:
                asked = places, strand, LIKELIHOODS[score][1]
                yield key, np.concatenate(ref), ("base_log_probabilities", asked)

    def _log_ratios(
        self, variant: Variant, answers: Sequence[np.ndarray]
    ) -> dict[Likelihood, np.ndarray]:
        """Answers (n, 4) of its windows by score and strand → (2n,) by score; NaN but for SNVs."""
        found = {}
        for place, score in enumerate(self.scoring.likelihoods):
            likely = np.concatenate(answers[2 * place : 2 * place + 2])  # (2n, 4)
            found[score] = np.full(len(likely), np.nan)
            if variant.is_snv:
                found[score] = log_ratio(likely, variant.ref, variant.alt)
        return found

    def _compare(
        self,
        tracks: Alleles | None,
        features: Alleles | None,
        log_ratios: Mapping[Likelihood, np.ndarray],
    ) -> Effect:
        """Of what is asked for: tracks (A, N, T) and features (A, C) of either allele, (A,)."""
        by_average: dict[Score, np.ndarray] = {}
        ref_sum = alt_sum = np.zeros(0, np.float32)
        averages = 0
        if tracks:
            ref, alt = (allele * self._masks for allele in tracks)
            for score in self.scoring.of_tracks:
                by_average[score] = TRACK_SCORES[score][1](ref, alt, self.scoring.pseudocount)
            ref_sum, alt_sum = ref.sum(1).mean(0), alt.sum(1).mean(0)
            averages = len(ref)
        if features:
            for score in self.scoring.distances:
                by_average[score] = DISTANCES[score][1](*features)[:, None]
            averages = len(features[0])
        for score, found in log_ratios.items():
            by_average[score] = found[:, None]
            averages = len(found)
        return Effect(
            ref=ref_sum,
            alt=alt_sum,
            mean={score: found.mean(0) for score, found in by_average.items()},
            spread={score: found.std(0) for score, found in by_average.items()},
            averages=averages,
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


def _around(base: int, length: int) -> tuple[int, int]:
    """The stretch of a length with a base in its middle, from 0 on."""
    first = base - length // 2
    return max(first, 0), first + length


def _alleles(strands: Sequence[np.ndarray], at: int, n: int) -> Alleles | None:
    """Of both strands' windows, n of REF and n of ALT from `at` on → REF and ALT, (2n, …) each."""
    if not strands:
        return None
    ref = np.concatenate([strand[at : at + n] for strand in strands])
    return ref, np.concatenate([strand[at + n : at + 2 * n] for strand in strands])
