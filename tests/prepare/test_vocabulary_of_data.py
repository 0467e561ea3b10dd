"""Vocabularies learnt from species folders, in this process and by the command."""

import sys

import pytest
from commands import DATA_PREP, run
from small_datasets import small_genome, write_small_dataset

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.prepare.vocabulary import even_shares, make_vocabulary, spread
from spacescale.tokens.bpe import train_bpe
from spacescale.tokens.vocabulary import FILE, read_vocabulary

TRAIN_BP = 23 * 128


def make(data, out, size=60, kmer=3, max_bp=10**6, tell=lambda line: None):
    return make_vocabulary([data], out, size=size, kmer=kmer, max_bp=max_bp, tell=tell)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_dataset(tmp_path_factory.mktemp("data") / "finch")


def test_it_is_learnt_from_the_targets_of_training_windows(data, tmp_path):
    found = make(data, tmp_path / "vocab")
    text = dna.decode(small_genome()[0][:TRAIN_BP])
    assert found.bpe == train_bpe([text[:2300], text[2300:]], 60)
    assert found == read_vocabulary(tmp_path / "vocab") and found.kmer == 3
    assert len(found.only(["bpe"])) == 60


def test_held_out_contigs_leave_no_trace(data, tmp_path):
    genome, other = small_genome(), small_genome(seed=2)
    held_out = write_small_dataset(tmp_path / "finch", genome=[genome[0], *other[1:]])
    train = write_small_dataset(tmp_path / "perch", genome=[other[0], *genome[1:]])
    found = make(data, tmp_path / "a").sha256
    assert make(held_out, tmp_path / "b").sha256 == found
    assert make(train, tmp_path / "c").sha256 != found


def test_unknown_bases_end_a_text(tmp_path):
    genome = small_genome()
    genome[0][::7] = dna.N
    found = make(write_small_dataset(tmp_path / "finch", genome=genome), tmp_path / "vocab")
    assert max(map(len, found.only(["bpe"]).tokens[9:])) <= 6


def test_of_several_species_equally_much_is_read(data, tmp_path):
    shorter = write_small_dataset(tmp_path / "moth")
    lines = []
    make_vocabulary(
        [data, shorter], tmp_path / "a", size=40, kmer=3, max_bp=4600, tell=lines.append
    )
    assert lines == [
        f"{name}: 2,300 of 2,944 bp of training sequence" for name in ("finch", "moth")
    ]


def test_what_is_read_is_spread_over_all():
    tiles = [("chrI", start, start + 10) for start in range(0, 1000, 10)]
    assert [start for _, start, _ in spread(tiles, 45)] == [0, 250, 500, 750]
    assert spread(tiles, 1000) == tiles and spread(tiles, 9) == spread([], 9) == []


def test_what_small_species_lack_is_dealt_to_the_others():
    assert even_shares({"a": 10, "b": 100, "c": 30}, 90) == {"a": 10, "b": 50, "c": 30}
    assert even_shares({"a": 10, "b": 5}, 90) == {"a": 10, "b": 5}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 4096}, r"--size 4096: the training sequence read of finch yields \d+ tokens"),
        ({"max_bp": 99}, "yields 9 tokens; give more data, a larger --max-bp or a smaller --size"),
        ({"kmer": 2}, "--kmer 2: expected 3 to 8"),
        ({"size": 9}, "--size 9: expected 10 or more"),
        ({"max_bp": 0}, "--max-bp 0: expected 1 or more"),
    ],
)
def test_what_cannot_be_learnt_leaves_nothing(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        make(data, tmp_path / "new/vocab", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command_in_another_process_writes_the_same_bytes(data, tmp_path):
    vocabulary = make(data, tmp_path / "here")
    options = ["--size", 60, "--kmer", 3, "--out", tmp_path / "there"]
    script = DATA_PREP / "vocabulary.py"
    done = run(sys.executable, script, "--data", data, *options, TOKENIZERS_PARALLELISM="true")
    assert done.returncode == 0, done.stderr
    assert f"{len(vocabulary)} tokens, sha256 {vocabulary.sha256}" in done.stdout
    here, there = ((tmp_path / name / FILE).read_bytes() for name in ("here", "there"))
    assert here == there


def test_a_folder_that_is_there_is_left_alone(data, tmp_path):
    with pytest.raises(UserError, match="already exists"):
        make(data, tmp_path)
