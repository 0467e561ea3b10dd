"""Learning byte pairs and reading published ones."""

import builtins
import re

import numpy as np
import pytest
from small_vocabularies import BPE, MERGES, published

from spacescale.errors import UserError
from spacescale.tokens.bpe import SPECIALS, bpe_of, train_bpe


def sequences(seed: int = 0, count: int = 40) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("ACGT"), 300)) for _ in range(count)]


def test_specials_come_first_then_bases_then_words_of_merges():
    found = train_bpe(sequences(), 64)
    assert found.tokens[:9] == (*SPECIALS, *"ACGT") and len(found.tokens) == 64
    assert found.tokens[9:] == tuple("".join(pair) for pair in found.merges)


def test_the_most_frequent_pair_merges_first():
    found = train_bpe(["GATTACA" * 3, "GATTACA", "TTTT"], 12)
    assert found.merges[0] == ("T", "T") and found.merges[1][0] in ("A", "G")


def test_training_does_not_depend_on_the_order_of_words_or_the_surroundings(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    first, second = train_bpe(sequences(), 200), train_bpe(sequences()[::-1], 200)
    assert first == second != train_bpe(sequences(seed=1), 200)


def test_a_pair_must_occur_twice():
    assert len(train_bpe(["ACGT"], 100).tokens) == 9


def test_merging_restarts_around_unknown_bases_each_of_which_is_one_token():
    tokens = [BPE.tokens[number] for number in BPE.encode("ACACNNGTACACGTT")]
    assert tokens == ["ACAC", "[UNK]", "[UNK]", "GT", "ACACGT", "T"]


def test_a_published_file_becomes_the_same_encoding():
    assert bpe_of(published(), "file") == BPE
    assert bpe_of(published(merges=[list(pair) for pair in MERGES]), "file") == BPE


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, "expected a tokenizer whose model is BPE"),
        (published(type="Unigram"), "expected a tokenizer whose model is BPE"),
        (published(continuing_subword_prefix="##"), "model.continuing_subword_prefix='##'"),
        (published(fuse_unk=True), "model.fuse_unk=True: not supported"),
        (published() | {"normalizer": {"type": "Lowercase"}}, "expected no normalizer"),
        (published() | {"pre_tokenizer": {"type": "ByteLevel"}}, "no pre_tokenizer but Whitespace"),
        (published() | {"pre_tokenizer": "Whitespace"}, "no pre_tokenizer but Whitespace"),
        (published(unk_token=None), r"model.unk_token=None: expected '\[UNK\]'"),
        (published(vocab={"A": 0, "C": 2}), "model.vocab: expected the ids 0 … N−1"),
        (published(vocab={"A": 0, "C": "1"}), "model.vocab: expected the ids 0 … N−1"),
        (published(vocab={"A": 0, "C": 1}), r"the token '\[UNK\]' is missing"),
        (published(merges=["A A"]), "merge 'A A': its words are no tokens"),
        (published(merges=["A C G"]), "merge 'A C G': expected two words"),
        (published(merges=[["A", 1]]), r"merge \['A', 1\]: expected two words"),
        (published(merges=[1]), "merge 1: expected two words"),
        (published(merges=None), "model.merges: expected a list"),
        (
            published(vocab={token: i for i, token in enumerate((*BPE.tokens, "ACNT"))}),
            "token 'ACNT': expected a word of ACGT",
        ),
    ],
)
def test_files_that_would_be_encoded_otherwise_are_refused(content, message):
    with pytest.raises(UserError, match=rf"^some\.json: .*{message}"):
        bpe_of(content, "some.json")


def test_without_the_package_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **named):
        if name == "tokenizers":
            raise ImportError("No module named 'tokenizers'", name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=re.escape("pip install 'spacescale[tokens]'")):
        train_bpe(["ACGT"], 10)
