"""Scores of tokens: of rows that are made when they are asked for, of which none is kept."""

import math
import weakref
from dataclasses import astuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_genomes import small_genome
from small_vocabularies import UNION

from spacescale.dataset.genome_windows import GenomeWindows
from spacescale.dataset.token_windows import RowMaker, collate, scored_rows
from spacescale.evals.token_evaluation import unigram_loss
from spacescale.mlm_config import MlmConfig
from spacescale.objectives.token_scores import score_rows, score_split
from spacescale.parallel import comm
from spacescale.tokens.masking import IGNORED

MAKERS = {name: RowMaker(UNION, name, MlmConfig(kmer_bp=150, bpe_bp=200)) for name in UNION.names}
LOGITS = torch.randn((len(UNION), len(UNION)), generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return small_genome(tmp_path_factory.mktemp("genome"))


def model(ids, attended, selected):
    """Says of a hidden token what LOGITS say of the token before it."""
    return LOGITS[ids.roll(1, 1)[selected]]


@pytest.fixture
def still_there(monkeypatch):
    """Whenever a row is made: how many of those before are still in memory."""
    made, counts, make = [], [], RowMaker.row

    def row(self, *args):
        counts.append(sum(one() is not None for one in made))
        found = make(self, *args)
        made.append(weakref.ref(found.labels))
        return found

    monkeypatch.setattr(RowMaker, "row", row)
    return counts


def of_all_rows_at_once(genome, maker, batch_size):
    """TokenScore as a tuple: all rows of the split are made before the first is scored."""
    rows, sums = list(scored_rows(genome, "valid", maker)), torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        mine = rows[start : start + batch_size]
        batch = collate(mine, [0] * len(mine), UNION)
        hidden = batch.labels != IGNORED
        logits, labels = model(batch.ids, batch.attended, hidden), batch.labels[hidden]
        sums[0] += F.cross_entropy(logits, labels, reduction="none").double().sum()
        sums[1] += (logits.argmax(-1) == labels).sum()
        sums[2] += len(labels)
        sums[3] += sum(maker.hidden_bases(row) for row in mine)
    return tuple(sums.tolist())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_are_those_of_all_rows_at_once(genome, batch_size):
    found = score_split(model, genome, "valid", MAKERS, batch_size, CPU)
    for name, maker in MAKERS.items():
        assert astuple(found[name]) == of_all_rows_at_once(genome, maker, batch_size)
        assert found[name].tokens > 20


def test_rows_are_there_while_their_batch_is_scored(genome, still_there):
    score_split(model, genome, "valid", MAKERS, 3, CPU)
    assert len(still_there) > 40
    assert max(still_there) < 2 * 3  # a batch, and so much of the next as is made


def test_ranks_share_the_rows_and_have_as_many_batches(genome, monkeypatch):
    maker, rows = MAKERS["kmer"], [*scored_rows(genome, "valid", MAKERS["kmer"])]
    whole = score_rows(model, rows, maker, 3, CPU)
    monkeypatch.setattr(comm, "world_size", lambda: 3)
    monkeypatch.setattr(comm, "add_over_ranks", lambda sums: sums)
    parts, batches = [], []
    for rank in range(3):
        monkeypatch.setattr(comm, "rank", lambda rank=rank: rank)
        asked = iter(range(100))
        parts.append(score_rows(model, rows, maker, 6, CPU, lambda asked=asked: next(asked) > 99))
        batches.append(next(asked))
    assert len(rows) == 2 * 18 + 4  # in the last round one rank has rows
    assert batches == [3, 3, 3]
    assert sum(part.tokens for part in parts) == whole.tokens
    assert sum(part.nats for part in parts) == pytest.approx(whole.nats)


@pytest.mark.parametrize("name", UNION.names)
def test_a_unigram_s_loss_is_that_of_all_rows_at_once(genome, name):
    maker = MAKERS[name]
    counts = np.zeros(len(UNION))
    counts[maker.words] = 1
    for row in scored_rows(genome, "train", maker):
        there = np.where(row.labels == IGNORED, row.ids, row.labels)
        np.add.at(counts, there[np.isin(there, maker.words)], 1)
    labels = np.concatenate([row.labels for row in scored_rows(genome, "valid", maker)])
    shares = counts[labels[labels != IGNORED]] / counts.sum()
    assert unigram_loss(genome, "valid", maker) == -np.log(shares).mean()


def test_a_unigram_keeps_no_row(genome, still_there):
    unigram_loss(genome, "valid", MAKERS["kmer"])
    assert len(still_there) > 40 and max(still_there) <= 2  # one of each split


def test_a_split_of_unknown_bases_alone_has_no_score(genome, monkeypatch):
    tiles = GenomeWindows.tiles

    def unknown(self, most):
        return tiles(self, most) if self.split == "train" else iter(())  # all have too many N

    monkeypatch.setattr(GenomeWindows, "tiles", unknown)
    (score,) = score_split(model, genome, "valid", {"bpe": MAKERS["bpe"]}, 4, CPU).values()
    assert math.isnan(score.loss) and math.isnan(unigram_loss(genome, "valid", MAKERS["bpe"]))
