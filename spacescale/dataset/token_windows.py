"""Sequences anywhere in the genomes of a run, as rows of tokens of which some are hidden.

Shapes: B rows of N tokens.

Every vocabulary of a run has a stream of windows of its own. The n-th row of a species in it, its
place, length, strand and masks, is a pure function of (data, seed, species, vocabulary, n): a run
reads the same rows in any number of processes, and goes on where it was stopped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from spacescale.config import Config
from spacescale.dataset.batch import Batch, TokenBatch
from spacescale.dataset.genome_windows import GenomeWindows, WindowChoice
from spacescale.dataset.reader import reopen
from spacescale.dataset.sampler import Draw, SampleOrder
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.mlm_config import MlmConfig
from spacescale.tokens.masking import IGNORED, mask_row, masking_of
from spacescale.tokens.vocabulary import Name, Vocabulary

OVERLAP_BP = 100  # of the windows that make up an epoch, as published
# What generators are seeded with beside seed, species, vocabulary and number: those of genome
# windows and of their order have 0 to 2.
_TRAINING, _SCORES = 3, 4
SCORES_SEED = 0  # of the masks of scores, which are those of every run


class MaskedRow(NamedTuple):
    """A row as the model is given it, and what stood there: int64 (N,) each, as `mask_row`."""

    ids: np.ndarray
    labels: np.ndarray


class RowMaker:
    """Makes rows of sequences in one of a vocabulary's parts."""

    def __init__(self, vocabulary: Vocabulary, name: Name, mlm: MlmConfig):
        self.vocabulary, self.mlm = vocabulary, mlm
        self.name: Name = name
        self.words, self.masking = vocabulary.words(name), masking_of(mlm, name)

    def row(self, codes: np.ndarray, random: np.random.Generator) -> MaskedRow:
        """Base codes uint8 (L,) → a row of them."""
        ids = self.vocabulary.encode(codes, self.name)
        row = self.vocabulary.row(ids, self.name, self.mlm.max_tokens)
        hidden = mask_row(row, self.words, self.vocabulary.mask_id, self.masking, random)
        return MaskedRow(*hidden)

    def for_scores(self) -> RowMaker:
        """One that hides the same places, and all by [MASK]: a span that stays as it was can be
        recognised by its neighbours, and knows itself what there is to say.
        """
        mlm = self.mlm.model_copy(update={"masked_share": 1.0, "random_share": 0.0})
        return RowMaker(self.vocabulary, self.name, mlm)

    def hidden_bases(self, row: MaskedRow) -> int:
        """Bases of the hidden tokens that no visible token spells, added up over these tokens.

        Of a row made here. Where all words are as likely, each costs 2 bits.
        """
        hidden = row.labels != IGNORED
        if self.name == "bpe":
            return sum(len(self.vocabulary.tokens[n]) for n in row.labels[hidden].tolist())
        each = np.ones(self.vocabulary.kmer)  # the k-mer at a place begins with the base there
        visible = np.isin(row.ids, self.words) & ~hidden
        unread = np.convolve(visible, each) == 0  # (N + k − 1,) bases
        return int(np.convolve(unread, each, "valid")[hidden].sum())


def mask_generator(
    seed: int, purpose: int, species: str, name: Name, n: int
) -> np.random.Generator:
    """The generator of one row's masks."""
    return np.random.default_rng([seed, zlib.crc32(f"{species} {name}".encode()), purpose, n])


def window_choice(mlm: MlmConfig, name: Name, seed: int, reverse_complement: bool) -> WindowChoice:
    """How the windows of a vocabulary's stream are drawn."""
    longest = mlm.bpe_bp if name == "bpe" else mlm.kmer_bp
    return WindowChoice(
        longest,
        mlm.shortest_bp,
        mlm.longest_share,
        tile=max(longest - OVERLAP_BP, 1),
        reverse_complement=reverse_complement,
        seed=seed,
        stream=name,
    )


class TokenWindows(Dataset):
    """Micro-batches of one rank, addressed by micro-step: as many rows of each vocabulary."""

    def __init__(
        self,
        genomes: Mapping[str, SpeciesGenome],
        vocabulary: Vocabulary,
        config: Config,
        micro_batch_size: int,
        rank: int,
        world_size: int,
    ):
        """Raises UserError for a species without training sequence, and a micro-batch of which
        vocabularies cannot have equal parts.
        """
        self.genomes, self.vocabulary, self.config = dict(genomes), vocabulary, config
        self.sizes = micro_batch_size, rank, world_size
        names, mlm = vocabulary.names, config.mlm
        self.makers: dict[Name, RowMaker] = {n: RowMaker(vocabulary, n, mlm) for n in names}
        seed, both_strands = config.run.seed, config.data.reverse_complement
        self.streams: dict[tuple[str, Name], GenomeWindows] = {
            (species, name): GenomeWindows(
                genome, "train", window_choice(mlm, name, seed, both_strands)
            )
            for species, genome in genomes.items()
            for name in names
        }
        of_each, rest = divmod(micro_batch_size, len(names))
        if rest:
            raise UserError(
                f"{micro_batch_size} sequences per process and micro-step are not equally many of "
                f"{' and '.join(names)}: take a multiple of {len(names)} (data.micro_batch_size, "
                "data.global_batch_size)"
            )
        sizes = {species: len(self.streams[species, names[0]]) for species in genomes}
        # Of one vocabulary; the others read of the same species, each its own windows.
        self.order = SampleOrder.of_run(config, sizes, of_each, world_size)

    def __reduce__(self) -> tuple:
        """Pickled small, as folders to open: a process is started only once all is sent to it."""
        found = {name: (one.path, one.manifest_hash) for name, one in self.genomes.items()}
        return _reopen, (found, self.vocabulary, self.config, *self.sizes)

    def __getitem__(self, micro_step: int) -> Batch:
        """Batch of one micro-step: the species of all ranks' rows, in data set order.

        Of a species that only other ranks hold rows of, it has none (B = 0).
        """
        _, rank, _ = self.sizes
        draws = self.order.draws(micro_step, rank)
        mine = {name: list(group) for name, group in groupby(draws, key=lambda d: d.species)}
        return {
            species: self._read(mine.get(species, []), count * len(self.makers))
            for species, count in self.order.windows_by_species(micro_step).items()
        }

    def place(self, draw: Draw) -> str:
        """Where a draw lies in each vocabulary's stream: contig:start-end, 0-based half-open."""
        places = []
        for name in self.makers:
            window = self.streams[draw.species, name][draw.number]
            places.append(f"{window.chrom}:{window.start}-{window.end} ({name})")
        return " ".join(places)

    def _read(self, draws: list[Draw], on_all_ranks: int) -> TokenBatch:
        names: list[Name] = [*self.makers]
        rows = [self._row(draw, name) for draw in draws for name in names]
        return collate(rows, [*range(len(names))] * len(draws), self.vocabulary, on_all_ranks)

    def _row(self, draw: Draw, name: Name) -> MaskedRow:
        window = self.streams[draw.species, name][draw.number]
        key = self.config.run.seed, _TRAINING, draw.species, name, draw.number
        return self.makers[name].row(window.codes, mask_generator(*key))


def _reopen(found: dict[str, tuple[Path, str]], *others: Any) -> TokenWindows:
    return TokenWindows({name: reopen(*one) for name, one in found.items()}, *others)


@dataclass(frozen=True)
class ScoredRows:
    """Rows of a genome's tiles with masks fixed for ever, made anew whenever they are gone through.

    None is kept: those of a human chromosome would fill gigabytes. most: of the tiles, at most.
    """

    windows: GenomeWindows
    maker: RowMaker
    most: int | None = None

    def __iter__(self) -> Iterator[MaskedRow]:
        key = SCORES_SEED, _SCORES, self.windows.genome.name, self.maker.name
        for tile in self.windows.tiles(self.most):
            place = zlib.crc32(f"{tile.chrom} {tile.start}".encode())
            yield self.maker.row(tile.codes, mask_generator(*key, place))


def scored_rows(
    genome: SpeciesGenome, split: str, maker: RowMaker, most: int | None = None
) -> ScoredRows:
    """Rows of a split for scores: tiles of the longest length, forward, with masks fixed for ever.

    What is hidden is hidden by [MASK] alone. most: of the tiles, at most. Raises UserError where
    the split has no sequence.
    """
    choice = window_choice(maker.mlm, maker.name, SCORES_SEED, reverse_complement=False)
    scoring = maker.for_scores()
    return ScoredRows(GenomeWindows(genome, split, choice), scoring, most)


def collate(
    rows: Sequence[MaskedRow], vocabulary_of: Sequence[int], vocabulary: Vocabulary, on_all_ranks=0
) -> TokenBatch:
    """Rows as one batch, filled up to the longest; vocabulary_of: the number of each row's."""
    ids = torch.from_numpy(vocabulary.pad([row.ids for row in rows]))
    labels = torch.full_like(ids, IGNORED)
    for place, row in zip(labels, rows, strict=True):
        place[: len(row.labels)] = torch.from_numpy(row.labels)
    lengths = torch.tensor([len(row.ids) for row in rows], dtype=torch.int64)
    attended = torch.arange(ids.shape[1]) < lengths[:, None]
    numbers = torch.tensor(vocabulary_of, dtype=torch.int64)
    return TokenBatch(ids, labels, attended, numbers, on_all_ranks)


def joined(batches: Sequence[TokenBatch], pad_id: int) -> TokenBatch:
    """Rows of several batches as one, filled up to the longest of all."""
    longest = max(batch.ids.shape[1] for batch in batches)

    def together(name: str, filling: float) -> torch.Tensor:
        parts = (getattr(batch, name) for batch in batches)
        return torch.cat(
            [torch.nn.functional.pad(p, (0, longest - p.shape[1]), value=filling) for p in parts]
        )

    return TokenBatch(
        together("ids", pad_id),
        together("labels", IGNORED),
        together("attended", False),
        torch.cat([batch.vocabulary for batch in batches]),
        sum(batch.on_all_ranks for batch in batches),
    )
