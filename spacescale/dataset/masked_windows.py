"""Training windows with hidden bases, and windows without tracks among them.

Shapes: L bases of a window, N bins, T tracks, M hidden bases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from spacescale.bases_config import BasesConfig, Phase, phase_at
from spacescale.dataset.augment import flip
from spacescale.dataset.batch import HiddenBases, Replaced, SpeciesBatch
from spacescale.dataset.genome_windows import GenomeWindows, WindowChoice
from spacescale.dataset.loader import TrainingWindows, Window
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import Draw, SampleOrder
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.genome import dna
from spacescale.genome.shuffles import dinucleotide_shuffle
from spacescale.tokens.base_masking import hide_bases, window_fate

NO_ROW = -1  # in the place of a data set's row: a window that has no targets
# Masks of scores: the same for every run, whatever its seed.
SCORING_SEED, SCORING_STREAM = 0, "scores"
_ALL_MASKED = Phase(1.0, 1.0, 1.0, 0.0)
_NO_PAIRS = np.empty(0, dtype=np.int64)  # of the tracks of a species without any


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
    what was not measured is. All windows of a species without tracks are such, and have targets of
    no bins and tracks. Which windows these are, and their masks, is a function of (seed, species,
    number of the window, step).
    """

    def __init__(
        self,
        genomes: Mapping[str, SpeciesGenome],
        order: SampleOrder,
        rank: int,
        seq_length: int,
        roll_targets_windows: int,
        replace_damaged: bool,
        masks: Masks,
    ):
        super().__init__(genomes, order, rank, seq_length, roll_targets_windows, replace_damaged)
        self.masks = masks
        _ = self.anywhere  # a genome without room for windows is refused here

    def _settings(self) -> tuple:
        return (*super()._settings(), self.masks)

    @cached_property
    def anywhere(self) -> dict[str, GenomeWindows]:
        """Windows anywhere in what may train, of the species that are read so.

        UserError where none fits in.
        """
        return {
            name: windows_anywhere(genome, self.seq_length, self.masks.seed)
            for name, genome in self.genomes.items()
            if self.masks.bases.untracked or name not in self.datasets
        }

    def place(self, draw: Draw) -> str:
        """Where the target of a draw lies; and where it does if it is read without tracks."""
        place = super().place(draw) if draw.species in self.datasets else ""
        if draw.species not in self.anywhere:
            return place
        other = self.anywhere[draw.species][draw.number]
        without = f"{other.chrom}:{other.start}-{other.end}"
        return f"{place} (without tracks: {without})" if place else without

    def _phase(self, species: str, micro_step: int) -> Phase:
        phase = self.masks.phase(micro_step)
        return phase if species in self.datasets else replace(phase, untracked=1.0)

    def _read(self, species: str, draws: list[Draw], micro_step: int) -> SpeciesBatch:
        data, seed = self.datasets.get(species), self.masks.seed
        phase = self._phase(species, micro_step)
        strand_pair = _NO_PAIRS if data is None else data.strand_pair
        windows: list[Window] = []
        hidden: list[_Hidden] = []
        replaced: list[Replaced] = []
        for place, draw in enumerate(draws):
            fate = window_fate(seed, species, draw.number, phase)
            if data is None or fate.untracked:
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
                codes, targets = flip(codes, targets, strand_pair)
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
        window, data = self.anywhere[draw.species][draw.number], self.datasets.get(draw.species)
        shape = (data.target_length, len(data.tracks)) if data else (0, 0)
        targets = np.full(shape, np.nan, dtype=np.float16)
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


def windows_anywhere(
    genome: SpeciesGenome, seq_length: int, seed: int, split: str = "train"
) -> GenomeWindows:
    """Windows of so many bp anywhere in what a split may use; UserError where none fits in."""
    choice = WindowChoice(seq_length, reverse_complement=False, seed=seed, stream="untracked")
    return GenomeWindows(genome, split, choice)


def windows_to_score(genome: SpeciesGenome, seq_length: int, split: str) -> np.ndarray:
    """Numbers of a split's windows, int64, ascending: what `masked_evaluation_batches` takes.

    Rows of a data set with tracks, else the genome's tiles of so many bp. None where the split has
    no window.
    """
    if isinstance(genome, SpeciesData):
        known = genome.manifest.num_windows.get(split)
        return genome.rows(split) if known else np.empty(0, dtype=np.int64)
    if split not in genome.bases_of_splits():
        return np.empty(0, dtype=np.int64)
    stretches = genome.stretches(split)
    if (stretches.end - stretches.start).max() < seq_length:
        return np.empty(0, dtype=np.int64)
    return np.arange(len(windows_anywhere(genome, seq_length, SCORING_SEED, split)))


def masked_evaluation_batches(
    genome: SpeciesGenome,
    numbers: np.ndarray,
    seq_length: int,
    batch_size: int,
    split: str,
    bases: BasesConfig,
) -> Iterator[SpeciesBatch]:
    """Windows of a split in this order, all masked, without targets; rows are their numbers.

    numbers: of `windows_to_score`. Hidden are bases that the split may use, all of them by the mask
    code: of a base left as it was, or replaced, a model that knows no neighbours would say half of
    the time what is there, and counts, which are not shown it, would not. The masks are those of
    any other run that hides as much, whatever its seed: a function of (species, number).
    """
    if not len(numbers):
        return
    read = _reading(genome, seq_length, split)
    unseen = bases.model_copy(update={"masked_share": 1.0, "random_share": 0.0})
    for start in range(0, len(numbers), batch_size):
        rows = numbers[start : start + batch_size]
        given, hidden = [], []
        for place, row in enumerate(rows.tolist()):
            codes, usable, repeats = read(row)
            fate = window_fate(SCORING_SEED, f"{genome.name} {SCORING_STREAM}", row, _ALL_MASKED)
            shown, mask = hide_bases(codes, usable, unseen, fate.random)
            given.append(shown)
            hidden.append(_Hidden(place, codes, mask, repeats))
        yield SpeciesBatch(
            torch.from_numpy(np.stack(given)),
            torch.empty(len(rows), 0, 0, dtype=torch.float16),
            torch.from_numpy(rows),
            hidden=_joined(hidden, len(hidden)),
        )


def _reading(
    genome: SpeciesGenome, seq_length: int, split: str
) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Window's number → its codes, which of them the split may use, which are repeats; (L,)."""
    if isinstance(genome, SpeciesData):
        return lambda row: (
            genome.sequence(row, seq_length),
            *about_bases(genome, row, seq_length, split),
        )
    windows = windows_anywhere(genome, seq_length, SCORING_SEED, split)

    def read_tile(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tile = windows.tile(number)
        return tile.codes, np.ones(seq_length, dtype=bool), tile.repeats

    return read_tile
