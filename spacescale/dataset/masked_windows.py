"""Training windows with hidden bases, and windows without tracks among them.

Shapes: L bases of a window, N bins, T tracks, M hidden bases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from spacescale.bases_config import BasesConfig, Phase, phase_at
from spacescale.dataset.augment import flip
from spacescale.dataset.batch import HiddenBases, Replaced, SpeciesBatch
from spacescale.dataset.genome_windows import GenomeWindows, WindowChoice
from spacescale.dataset.loader import TrainingWindows, Window, evaluation_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import Draw, SampleOrder
from spacescale.genome import dna
from spacescale.genome.shuffles import dinucleotide_shuffle
from spacescale.tokens.base_masking import hide_bases, window_fate

NO_ROW = -1  # in the place of a data set's row: a window that has no targets
# Masks of scores: the same for every run, whatever its seed.
SCORING_SEED, SCORING_STREAM = 0, "scores"
_ALL_MASKED = Phase(1.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True)
class Masks:
    """How the windows of a run are masked; with the seed all that it depends on.

    accumulation: micro-steps of an optimiser step. seed: the run's.
    """

    bases: BasesConfig
    max_steps: int
    accumulation: int
    seed: int

    def phase(self, micro_step: int) -> Phase:
        """What counts in the optimiser step that a micro-step belongs to."""
        return phase_at(micro_step // self.accumulation, self.bases, self.max_steps)


class MaskedWindows(TrainingWindows):
    """TrainingWindows in some of which bases are hidden; every batch says which (`hidden`).

    Hidden are only bases that may train: those of the flanks that another split holds are not.
    A window without tracks lies anywhere in the sequence that may train; its targets are NaN, as
    what was not measured is. Which windows these are, and their masks, is a function of (seed,
    species, number of the window, step).
    """

    def __init__(
        self,
        datasets: dict[str, SpeciesData],
        order: SampleOrder,
        rank: int,
        seq_length: int,
        roll_targets_windows: int,
        replace_damaged: bool,
        masks: Masks,
    ):
        super().__init__(datasets, order, rank, seq_length, roll_targets_windows, replace_damaged)
        self.masks = masks
        if masks.bases.untracked:
            _ = self.anywhere  # a genome without room for windows is refused here

    def _settings(self) -> tuple:
        return (*super()._settings(), self.masks)

    @cached_property
    def anywhere(self) -> dict[str, GenomeWindows]:
        """Windows of each species anywhere in what may train; UserError where none fits in."""
        choice = WindowChoice(
            self.seq_length, reverse_complement=False, seed=self.masks.seed, stream="untracked"
        )
        return {name: GenomeWindows(data, "train", choice) for name, data in self.datasets.items()}

    def place(self, draw: Draw) -> str:
        """Where the target of a draw lies; and where it does if it is read without tracks."""
        place = super().place(draw)
        if not self.masks.bases.untracked:
            return place
        other = self.anywhere[draw.species][draw.number]
        return f"{place} (without tracks: {other.chrom}:{other.start}-{other.end})"

    def _read(self, species: str, draws: list[Draw], micro_step: int) -> SpeciesBatch:
        data, seed, phase = self.datasets[species], self.masks.seed, self.masks.phase(micro_step)
        windows: list[Window] = []
        hidden: list[_Hidden] = []
        replaced: list[Replaced] = []
        for place, draw in enumerate(draws):
            fate = window_fate(seed, species, draw.number, phase)
            if fate.untracked:
                codes, targets, row, usable, repeats = self._without_tracks(draw)
            else:
                read, codes, targets, damaged = self._sound(draw)
                row, replaced = int(self.rows[species][read]), replaced + damaged
                usable, repeats = about_bases(data, row, self.seq_length, "train", draw.shift_bp)
            if fate.masked:
                mask = hide_bases(codes, usable, self.masks.bases, fate.random)
                truth = _labels(codes, self.masks.bases.shuffle_labels, fate.random)
                codes, one = mask[0], _Hidden(place, truth, mask[1], repeats)
                hidden.append(one.flipped() if draw.reverse_complement else one)
            if draw.reverse_complement:
                codes, targets = flip(codes, targets, data.strand_pair)
            windows.append((codes, targets, row))
        on_all_ranks = sum(
            window_fate(seed, species, n, phase).masked
            for n in self.order.numbers(micro_step)[species]
        )
        batch = self._collate(species, windows, replaced)
        return replace(batch, hidden=_joined(hidden, on_all_ranks))

    def _without_tracks(
        self, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray]:
        """Codes, targets and row as of a window with tracks; which bases may train, and repeats."""
        window, data = self.anywhere[draw.species][draw.number], self.datasets[draw.species]
        targets = np.full((data.target_length, len(data.tracks)), np.nan, dtype=np.float16)
        usable = np.ones(len(window.codes), dtype=bool)
        return window.codes, targets, NO_ROW, usable, window.repeats


@dataclass(frozen=True)
class _Hidden:
    """A masked window at its place in the batch, as one strand reads it.

    truth: uint8 (L,). hidden, repeats: which bases are, bool (L,).
    """

    place: int
    truth: np.ndarray
    hidden: np.ndarray
    repeats: np.ndarray

    def flipped(self) -> _Hidden:
        """As the other strand reads it."""
        truth = dna.reverse_complement(self.truth)
        return _Hidden(self.place, truth, self.hidden[::-1], self.repeats[::-1])


def _labels(codes: np.ndarray, shuffled: bool, random: np.random.Generator) -> np.ndarray:
    """What is to be predicted of a window, uint8 (L,); what is unknown stays where it is."""
    if not shuffled:
        return codes
    known, labels = codes < dna.N, codes.copy()
    labels[known] = dinucleotide_shuffle(codes[known], random)
    return labels


def _joined(windows: Sequence[_Hidden], on_all_ranks: int) -> HiddenBases:
    def joined(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype=kind), *parts])

    places = np.flatnonzero(joined([one.hidden for one in windows], bool))
    truth = joined([one.truth for one in windows], np.uint8)[places]
    in_repeats = joined([one.repeats for one in windows], bool)[places]
    return HiddenBases(
        tuple(one.place for one in windows),
        torch.from_numpy(places),
        torch.from_numpy(truth.astype(np.int64)),
        torch.from_numpy(in_repeats),
        on_all_ranks,
    )


def about_bases(
    data: SpeciesData, row: int, seq_length: int, split: str, shift: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Of the bases of `data.sequence`: which a split may use and which are repeats, bool (L,).

    Past the ends of the contig neither.
    """
    contig, first = data.contig(row), data.first_base(row, seq_length, shift)
    start = max(first, contig.start)
    end = max(min(first + seq_length, contig.start + contig.length), start)
    usable, repeats = np.zeros((2, seq_length), dtype=bool)
    inside = slice(start - first, end - first)
    usable[inside] = data.in_split(split, contig.name, start, end)
    repeats[inside] = data.repeats(contig.name, start, end)
    return usable, repeats


def masked_evaluation_batches(
    data: SpeciesData,
    rows: np.ndarray,
    seq_length: int,
    batch_size: int,
    split: str,
    bases: BasesConfig,
) -> Iterator[SpeciesBatch]:
    """The given rows in order, all masked, as `evaluation_batches` yields them.

    Hidden are bases that the split may use. The masks are those of any other run that hides as
    much, whatever its seed: a function of (species, row).
    """
    for batch in evaluation_batches(data, rows, seq_length, batch_size):
        given, hidden = [], []
        for place, row in enumerate(batch.rows.tolist()):
            codes = batch.codes[place].numpy()
            usable, repeats = about_bases(data, row, seq_length, split)
            fate = window_fate(SCORING_SEED, f"{data.name} {SCORING_STREAM}", row, _ALL_MASKED)
            shown, mask = hide_bases(codes, usable, bases, fate.random)
            given.append(shown)
            hidden.append(_Hidden(place, codes, mask, repeats))
        codes = torch.from_numpy(np.stack(given))
        yield replace(batch, codes=codes, hidden=_joined(hidden, len(hidden)))
