"""Score an encoder of tokens on held-out sequence, beside what counts of its words would say."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spacescale.console import aligned
from spacescale.dataset.loader import open_genomes
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.token_windows import RowMaker, scored_rows
from spacescale.errors import UserError
from spacescale.files import write_json
from spacescale.metrics.writer import json_safe
from spacescale.objectives.token_scores import TokenScore, score_split
from spacescale.parallel import comm
from spacescale.predict.trained_encoder import TrainedEncoder, load_trained_encoder
from spacescale.tokens.masking import IGNORED
from spacescale.tokens.vocabulary import Name

COUNTED = 2_000  # training sequences of a species, at most, whose words are counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A species in one vocabulary. unigram: nats per hidden token by counts of training's words;
    NaN where the data have no training sequence."""

    species: str
    vocabulary: Name
    score: TokenScore
    unigram: float


def evaluate_tokens(
    path: Path,
    data_paths: list[Path],
    out: Path | None,
    split: str,
    batch_size: int,
    other_split: bool,
) -> str:
    """Score a run, checkpoint or export on a split of the data; returns a table.

    Hidden are the tokens that were hidden in validation, whoever scores. Writes metrics.json to
    `out` (default: evaluation/SPLIT in the run folder or export). Raises UserError for data that
    are not there, have no such split, or are split in another way than in training.
    """
    trained = load_trained_encoder(path)
    if not data_paths and not trained.data_paths:
        raise UserError(f"{path}: an export does not know its data; give --data")
    genomes = open_genomes(data_paths or trained.data_paths)
    for genome in genomes.values():
        trained.check_splits(genome, other_split)
    found = [
        one
        for genome in genomes.values()
        for one in _evaluate_species(trained, genome, split, batch_size)
    ]
    folder = out or (trained.run or path) / "evaluation" / split
    folder.mkdir(parents=True, exist_ok=True)
    payload = {"model": str(trained.source), "split": split, "scores": _plain(found)}
    write_json(folder / "metrics.json", json_safe(payload), indent=1)
    logger.info("scores: %s", folder / "metrics.json")
    return "\n".join(table(found))


def table(found: list[Evaluated]) -> list[str]:
    """Lines for people, one for each species and vocabulary."""
    head = ("species", "words", "hidden", "nats/token", "unigram", "accuracy", "bits/base")
    rows: list[tuple[str, ...]] = [head]
    for one in found:
        score = one.score
        numbers = score.loss, one.unigram, score.accuracy, score.bits_per_base
        rows.append(
            (one.species, one.vocabulary, f"{score.tokens:,.0f}", *(f"{n:.3f}" for n in numbers))
        )
    return aligned(rows, left=(0, 1))


def _plain(found: list[Evaluated]) -> dict[str, dict[str, dict[str, float]]]:
    """Species → vocabulary → measures and sums."""
    plain: dict[str, dict[str, dict[str, float]]] = {}
    for one in found:
        values = one.score.values() | asdict(one.score) | {"unigram_loss": one.unigram}
        plain.setdefault(one.species, {})[one.vocabulary] = values
    return plain


def _evaluate_species(
    trained: TrainedEncoder, genome: SpeciesGenome, split: str, batch_size: int
) -> list[Evaluated]:
    device, makers = comm.device(), trained.makers()
    scores = score_split(trained.model.to(device), genome, split, makers, batch_size, device)
    return [
        Evaluated(genome.name, name, score, unigram_loss(genome, split, makers[name]))
        for name, score in scores.items()
    ]


def unigram_loss(
    genome: SpeciesGenome, split: str, maker: RowMaker, most: int | None = None
) -> float:
    """Nats per hidden token of a split by how often each word stands in training sequence.

    Every word is counted once more than it was found. NaN without training sequence, and where the
    split has none without too many N. most: of the sequences that are scored, at most.
    """
    if "train" not in genome.bases_of_splits():
        return math.nan
    size = len(maker.vocabulary)
    counts = np.zeros(size)
    counts[maker.words] = 1
    for row in scored_rows(genome, "train", maker, COUNTED):
        there = np.where(row.labels == IGNORED, row.ids, row.labels)
        counts += np.bincount(there[np.isin(there, maker.words)], minlength=size)
    shares = counts / counts.sum()
    scored = scored_rows(genome, split, maker, most)
    logs = [np.log(shares[row.labels[row.labels != IGNORED]]) for row in scored]
    return float(-np.concatenate(logs).mean()) if logs else math.nan
