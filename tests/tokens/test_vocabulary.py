"""Ids of one vocabulary and of both, rows, and the file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from small_vocabularies import BPE, UNION, WORDS, published, write_published

from spacescale.errors import UserError
from spacescale.genome.dna import encode
from spacescale.tokens.kmers import kmer_words
from spacescale.tokens.vocabulary import FILE, read_vocabulary

CODES = encode("ACACGTACACGTT")
PUBLISHED = os.environ.get("PUBLISHED_BPE")  # Genomics-FM's tokenizer_bpe/tokenizer.json


def test_the_union_is_bpe_then_prompts_then_the_k_mers_that_bpe_lacks():
    count = len(BPE.tokens)
    assert UNION.tokens[:count] == BPE.tokens
    assert UNION.tokens[count : count + 2] == ("[BPE]", "[KMER]")
    assert list(UNION.tokens[count + 2 :]) == [w for w in kmer_words(6) if w != "ACACGT"]
    assert len(UNION) == count + 2 + 4095 == len(set(UNION.tokens))


def test_a_word_of_both_has_one_id():
    shared = UNION.ids["ACACGT"]
    assert UNION.encode(CODES, "bpe").tolist() == [shared, shared, UNION.ids["T"]]
    kmers = UNION.encode(CODES, "kmer")
    assert [UNION.tokens[i] for i in kmers] == ["ACACGTACACGTT"[i : i + 6] for i in range(8)]
    assert kmers[0] == kmers[6] == shared


def test_words_are_what_stands_for_bases_and_nothing_else():
    tokens = [UNION.tokens[i] for i in UNION.words("bpe")]
    assert tokens == [*"ACGT", *WORDS]
    kmers = UNION.words("kmer")
    assert {UNION.tokens[i] for i in kmers} == set(kmer_words(6)) and (np.diff(kmers) > 0).all()


def test_single_vocabularies_need_no_prompt():
    bpe, kmer = UNION.only(["bpe"]), UNION.only(["kmer"])
    assert bpe.tokens == BPE.tokens
    assert kmer.tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *kmer_words(6))
    assert kmer.encode(encode("AAAAAT"), "kmer").tolist() == [6]
    assert bpe.row(bpe.encode(CODES, "bpe"), "bpe").tolist() == [1, 12, 12, 8, 2]
    assert UNION.only(["kmer", "bpe"]) == UNION
    assert len({one.sha256 for one in (UNION, bpe, kmer)}) == 3


def test_unknown_bases_are_unknown_tokens():
    unk = UNION.ids["[UNK]"]
    kmers = UNION.encode(encode("ACGTACNACGTACG"), "kmer")
    assert (kmers == unk).tolist() == [0, *[1] * 6, 0, 0]
    assert UNION.encode(encode("ACNN"), "bpe").tolist() == [UNION.ids["AC"], unk, unk]


def test_rows_have_their_prompt_and_end():
    ids = UNION.encode(CODES, "kmer")
    row = UNION.row(ids, "kmer")
    named = [UNION.tokens[i] for i in (*row[:2], row[-1])]
    assert named == ["[CLS]", "[KMER]", "[SEP]"] and row[2:-1].tolist() == ids.tolist()
    assert UNION.tokens[UNION.row(ids, "bpe")[1]] == "[BPE]"
    cut = UNION.row(ids, "kmer", max_tokens=6)
    assert cut.tolist() == [*row[:5], row[-1]]
    assert UNION.row(ids, "kmer", max_tokens=len(row)).tolist() == row.tolist()
    assert UNION.row(ids, "kmer", max_tokens=3).tolist() == [*row[:2], row[-1]]
    with pytest.raises(AssertionError):
        UNION.row(ids, "kmer", max_tokens=2)


def test_padding():
    padded = UNION.pad([np.array([7, 8]), np.array([9, 9, 9])])
    assert padded.tolist() == [[7, 8, UNION.ids["[PAD]"]], [9, 9, 9]] and padded.dtype == np.int64


# --- the file ---


def test_a_file_is_read_as_it_was_written(tmp_path):
    UNION.write(tmp_path / FILE, {"species": "any"})
    found = read_vocabulary(tmp_path)
    assert found == UNION and found.sha256 == UNION.sha256
    assert read_vocabulary(tmp_path / FILE, ["kmer"]) == UNION.only(["kmer"])


def test_what_it_was_made_from_is_no_part_of_its_identity(tmp_path):
    for name in "ab":
        UNION.write(tmp_path / name, {"species": name})
    read = [json.loads((tmp_path / name).read_text()) for name in "ab"]
    assert read[0]["sha256"] == read[1]["sha256"] and read[0]["made_from"] == {"species": "a"}


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": [*UNION.tokens[:-1], "GGGGGT"]},
        {"tokens": [*UNION.tokens[:-2], *UNION.tokens[:-3:-1]]},
        {"kmer": 5},
        {"merges": []},
        {"vocabularies": ["bpe"]},
        {"bpe_tokens": 3},
        {"sha256": "0" * 64},
        {"merges": None},
    ],
)
def test_an_edited_file_is_refused(tmp_path, change):
    UNION.write(tmp_path / FILE, {})
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=rf"{FILE}: damaged or edited"):
        read_vocabulary(tmp_path)


def test_other_files_are_refused_by_what_they_are(tmp_path):
    with pytest.raises(UserError, match=r"expected vocabulary\.json or tokenizer\.json"):
        read_vocabulary(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format": "spacescale-vocabulary", "version": 2}))
    with pytest.raises(UserError, match="has version 2, this spacescale reads 1"):
        read_vocabulary(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="expected a vocabulary, found format='other'"):
        read_vocabulary(tmp_path)


def test_names_that_cannot_be_had_are_refused(tmp_path):
    for names in ([], ["bpe", "bpe"], ["words"]):
        with pytest.raises(UserError, match="expected bpe or kmer, or both"):
            UNION.only(names)
    UNION.only(["kmer"]).write(tmp_path / FILE, {})
    with pytest.raises(UserError, match="this vocabulary holds k-mers alone"):
        read_vocabulary(tmp_path, ["bpe"])


def test_a_published_bpe_is_joined_with_6_mers(tmp_path):
    file = write_published(tmp_path / "tokenizer.json", published())
    assert read_vocabulary(file) == read_vocabulary(tmp_path) == UNION
    assert read_vocabulary(file, ["bpe"]) == UNION.only(["bpe"])
    with pytest.raises(UserError, match="vocabularies none: expected"):
        read_vocabulary(file, [])


@pytest.mark.skipif(not PUBLISHED, reason="PUBLISHED_BPE names no published tokenizer.json")
def test_the_published_bpe_of_genomics_fm():
    found = read_vocabulary(Path(PUBLISHED or ""))
    assert len(found) == 7_266
    assert len(set(found.only(["bpe"]).tokens) & set(kmer_words(6))) == 928
