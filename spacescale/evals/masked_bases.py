"""Hidden bases of a split: how well a model predicts them, beside counts of their neighbours.

Shapes: L bases of a window, M hidden ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spacescale.bases_config import BasesConfig
from spacescale.dataset.masked_windows import masked_evaluation_batches, windows_to_score
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids, reverse_complement_ids
from spacescale.metrics.masked_bases import BaseScores
from spacescale.model.hybrid import HybridSpace
from spacescale.objectives.bases_validation import score_bases

# Of yeast's 11 Mb more neighbours than four predict worse, as words become too rare to count.
REACH = 4
TRAIN = "train"


@dataclass(frozen=True)
class BaseCounts:
    """Which base stands between which neighbours, counted on both strands of what may train.

    log_probabilities: float32 (W, W, 4) by the number of the word of `reach` bases on the left and
    of that on the right; the last W is that of words with an N, of which only the composition of
    the genome is known.
    """

    reach: int
    log_probabilities: np.ndarray

    @classmethod
    def of(cls, genome: SpeciesGenome, reach: int = REACH) -> BaseCounts:
        """Count the training sequence of a species; each base once more than it is there."""
        length, words = 2 * reach + 1, 4**reach
        counts = np.zeros(4**length, dtype=np.int64)
        for stretch in genome.stretches(TRAIN).intervals():
            ids = kmer_ids(genome.codes(stretch.chrom, stretch.start, stretch.end), length)
            counts += np.bincount(ids, minlength=4**length + 1)[:-1]
        counts += counts[reverse_complement_ids(length)] + 1
        by_word = counts.reshape(words, 4, words).swapaxes(1, 2)  # left, right, base
        found = np.empty((words + 1, words + 1, 4), dtype=np.float32)
        found[:] = np.log(by_word.sum((0, 1)) / by_word.sum())
        found[:-1, :-1] = np.log(by_word / by_word.sum(2, keepdims=True))
        return cls(reach, found)

    def of_window(self, codes: np.ndarray) -> np.ndarray:
        """Log probabilities of A C G T at each base of codes uint8 (L,), float32 (L, 4)."""
        around = np.full(self.reach, dna.N, dtype=np.uint8)
        ids = kmer_ids(np.concatenate([around, codes, around]), self.reach)
        size = len(codes)
        return self.log_probabilities[ids[:size], ids[self.reach + 1 : self.reach + 1 + size]]


@dataclass(frozen=True)
class SplitBases:
    """Scores of the bases that are hidden in the windows of one species' split."""

    species: str
    split: str
    model: BaseScores
    counts: BaseScores  # which see the true neighbours

    def line(self) -> str:
        """The scores in words."""
        model, counts = self.model, self.counts
        return (
            f"{self.species}, {self.split}: {model.count:,} hidden bases, perplexity "
            f"{model.perplexity:.3f} (accuracy {model.accuracy:.3f}); counts of {REACH} bases on "
            f"either side, all of which they see: {counts.perplexity:.3f} ({counts.accuracy:.3f})"
        )

    def json(self) -> dict[str, Any]:
        """The scores as plain values."""
        return {
            name: {
                "bases": scores.count,
                "cross_entropy": scores.cross_entropy,
                "perplexity": scores.perplexity,
                "accuracy": scores.accuracy,
            }
            for name, scores in (("model", self.model), ("counts", self.counts))
        }


def score_masked_bases(
    model: HybridSpace,
    data: SpeciesGenome,
    split: str,
    batch_size: int,
    rows: Sequence[int] = (),
    bases: BasesConfig | None = None,
) -> SplitBases:
    """Hide bases of a split's windows as in validation, and predict them where the model lies.

    rows: of `windows_to_score`, that are scored; all of them where none are given. bases: how many
    are hidden, and how; as the model was trained where it is not given.
    """
    device = next(model.parameters()).device
    windows = rows if len(rows) else windows_to_score(data, model.config.seq_length, split)
    scored = np.array(windows, dtype=np.int64)
    counts = BaseCounts.of(data)
    found = SplitBases(data.name, split, BaseScores(device), BaseScores())
    for batch in masked_evaluation_batches(
        data, scored, model.config.seq_length, batch_size, split, bases or model.bases
    ):
        hidden = batch.hidden
        assert hidden is not None
        truth = batch.codes.flatten().index_copy(0, hidden.places, hidden.bases.to(torch.uint8))
        by_counts = [counts.of_window(codes.numpy()) for codes in truth.view_as(batch.codes)]
        logits = torch.from_numpy(np.concatenate(by_counts))[hidden.places]
        found.counts.update(logits, hidden.bases)
        score_bases(model, data.name, batch.to(device), found.model)
    return found


def score_species(
    model: HybridSpace, genomes: Mapping[str, SpeciesGenome], split: str, batch_size: int
) -> list[SplitBases]:
    """`score_masked_bases` of each species whose split has bases to hide."""
    found = (score_masked_bases(model, g, split, batch_size) for g in genomes.values())
    return [one for one in found if one.model.count]
