"""Rows of tokens for training: what decides them, what they hold, and how they are put together."""

import pickle

import numpy as np
import pytest
import torch
from small_genomes import small_genome
from small_vocabularies import UNION

from spacescale.dataset.token_windows import (
    MaskedRow,
    RowMaker,
    TokenWindows,
    collate,
    joined,
    mask_generator,
    scored_rows,
    window_choice,
)
from spacescale.mlm_config import MlmConfig
from spacescale.overrides import build_config
from spacescale.tokens.masking import IGNORED

SHORT = ["mlm.bpe_bp=120", "mlm.kmer_bp=90", "mlm.shortest_bp=30"]


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return small_genome(tmp_path_factory.mktemp("genome"))


def windows_of(genome, size=4, rank=0, world=1, *changes):
    config = build_config("genomics_fm_tiny", [*SHORT, *changes])
    return TokenWindows({"tiny": genome}, UNION, config, size, rank, world)


def rows_of(batch):
    """(vocabulary, ids, labels) of each row, without what fills it up."""
    part = batch["tiny"]
    return sorted(
        (int(number), ids[on].tolist(), labels[on].tolist())
        for number, ids, labels, on in zip(
            part.vocabulary, part.ids, part.labels, part.attended, strict=True
        )
    )


def test_each_vocabulary_has_as_many_rows_under_its_prompt(genome):
    batch = windows_of(genome)[0]["tiny"]
    assert batch.vocabulary.tolist() == [0, 1, 0, 1] and batch.on_all_ranks == 4
    prompts = [UNION.ids["[BPE]"], UNION.ids["[KMER]"]]
    assert batch.ids[:, 1].tolist() == [prompts[n] for n in batch.vocabulary]
    there = torch.where(batch.labels == IGNORED, batch.ids, batch.labels)
    for row, number, attended in zip(there, batch.vocabulary, batch.attended, strict=True):
        words = UNION.words(UNION.names[number])
        assert np.isin(row[attended][2:-1].numpy(), [*words, UNION.ids["[UNK]"]]).all()
        assert (row[~attended] == UNION.pad_id).all()
    assert (batch.labels != IGNORED).sum() > 10


def test_rows_are_those_of_their_windows(genome):
    windows = windows_of(genome)
    draws = windows.order.draws(5, 0)
    expected = []
    for number, name in enumerate(UNION.names):
        for draw in draws:
            codes = windows.streams["tiny", name][draw.number].codes
            expected.append((number, UNION.row(UNION.encode(codes, name), name).tolist()))
    found = [
        (number, np.where(np.array(labels) == IGNORED, ids, labels).tolist())
        for number, ids, labels in rows_of(windows[5])
    ]
    assert sorted(found) == sorted(expected)
    assert "tiny" not in windows.place(draws[0]) and "(bpe) chr" in windows.place(draws[0])


def test_any_number_of_processes_reads_the_same_rows(genome):
    whole = [rows_of(windows_of(genome, 8)[step]) for step in range(3)]
    shared = [windows_of(genome, 4, rank, 2) for rank in range(2)]
    again = pickle.loads(pickle.dumps(shared[1]))
    for step, rows in enumerate(whole):
        assert rows_of(shared[0][step]) + rows_of(again[step]) != rows
        assert sorted(rows_of(shared[0][step]) + rows_of(again[step])) == rows
    halved = windows_of(genome, 4)  # twice as many micro-steps
    assert sorted(rows_of(halved[0]) + rows_of(halved[1])) == whole[0]


def test_a_vocabulary_reads_the_same_with_and_without_another_beside_it(genome):
    both = windows_of(genome, 8)
    alone = TokenWindows({"tiny": genome}, UNION.only(["kmer"]), both.config, 4, 0, 1)
    for draw in both.order.draws(0, 0):
        one, other = (w.streams["tiny", "kmer"][draw.number] for w in (both, alone))
        assert np.array_equal(one.codes, other.codes)


def test_seeds_decide(genome):
    first = rows_of(windows_of(genome)[0])
    assert rows_of(windows_of(genome)[0]) == first
    assert rows_of(windows_of(genome, 4, 0, 1, "run.seed=1")[0]) != first
    assert rows_of(windows_of(genome)[1]) != first


def test_masks_are_drawn_from_all_that_names_a_row():
    def draw(seed=0, purpose=3, species="ant", name="bpe", n=5):
        return mask_generator(seed, purpose, species, name, n).random()

    others = [{"seed": 1}, {"purpose": 4}, {"species": "bee"}, {"name": "kmer"}, {"n": 6}]
    assert len({draw(), *(draw(**other) for other in others)}) == 6
    assert draw() == draw()


def test_the_published_lengths():
    bpe, kmer = (window_choice(MlmConfig(), name, 0, True) for name in UNION.names)
    assert (bpe.longest, bpe.tile, kmer.longest, kmer.tile) == (2300, 2200, 510, 410)
    assert {(c.least, c.longest_share) for c in (bpe, kmer)} == {(70, 0.5)}


# --- scores ---


def test_scored_rows_are_the_same_for_ever_and_evenly_spread(genome):
    maker = RowMaker(UNION, "kmer", MlmConfig(kmer_bp=150))
    scored = scored_rows(genome, "valid", maker)
    rows = list(scored)
    assert len(rows) == 2000 // 50
    assert all((row.ids[row.labels != IGNORED] == UNION.mask_id).all() for row in rows)
    for row, again in zip(rows, scored, strict=True):
        assert np.array_equal(row.ids, again.ids) and np.array_equal(row.labels, again.labels)
    few = scored_rows(genome, "valid", maker, most=4)
    every_tenth = zip(few, rows[::10], strict=True)
    assert all(np.array_equal(a.ids, b.ids) for a, b in every_tenth)


def unread_by_hand(row: MaskedRow, name: str) -> int:
    """Of each hidden token the bases that no visible one spells."""
    hidden = row.labels != IGNORED
    if name == "bpe":
        return sum(len(UNION.tokens[n]) for n in row.labels[hidden])
    places = range(2, len(row.ids) - 1)
    words = set(UNION.words("kmer").tolist())
    read = {p + i for p in places if not hidden[p] and row.ids[p] in words for i in range(6)}
    return sum(p + i not in read for p in places if hidden[p] for i in range(6))


@pytest.mark.parametrize("name", UNION.names)
def test_hidden_bases_are_those_that_nothing_spells(name):
    maker = RowMaker(UNION, name, MlmConfig())
    random = np.random.default_rng(3)
    total = 0
    for _ in range(20):
        codes = random.integers(0, 4, 200).astype(np.uint8)
        codes[90:92] = 4
        row = maker.row(codes, random)
        assert maker.hidden_bases(row) == unread_by_hand(row, name)
        total += maker.hidden_bases(row)
    assert total > 100


def test_a_span_of_14_leaves_less_than_4_bases_of_each_token_unread():
    maker = RowMaker(UNION, "kmer", MlmConfig(kmer_centre_rate=0.002))
    random = np.random.default_rng(0)
    rows = [maker.row(random.integers(0, 4, 510).astype(np.uint8), random) for _ in range(200)]
    tokens = sum((row.labels != IGNORED).sum() for row in rows)
    assert sum(map(maker.hidden_bases, rows)) / tokens == pytest.approx(3.9, abs=0.15)


# --- batches ---


def test_batches_are_filled_up_and_joined():
    short, long = (MaskedRow(np.full(n, n), np.full(n, IGNORED)) for n in (3, 5))
    first, second = collate([short], [1], UNION, 4), collate([short, long], [0, 1], UNION, 2)
    empty = collate([], [], UNION, 1)
    assert first.ids.shape == (1, 3) and empty.num_windows == 0
    rows = joined([first, empty, second], UNION.pad_id)
    assert rows.ids.shape == rows.labels.shape == rows.attended.shape == (3, 5)
    assert rows.attended.sum(1).tolist() == [3, 3, 5]
    assert (rows.ids[~rows.attended] == UNION.pad_id).all()
    assert rows.vocabulary.tolist() == [1, 0, 1] and rows.on_all_ranks == 7
