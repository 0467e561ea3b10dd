"""The vocabulary that shares more words with a task's own: by hand, by the command, on GUE."""

import os
from pathlib import Path

import numpy as np
import pytest
from made_up_tasks import examples_of, task_of
from task_files import write_splits

from spacescale.cli import build_parser
from spacescale.errors import UserError
from spacescale.genome.dna import encode
from spacescale.tasks.read_task import read_task
from spacescale.tokens.bpe import SPECIALS, Bpe
from spacescale.tokens.vocabulary import FILE, NAMES, Vocabulary, read_vocabulary
from spacescale.tuning.vocabulary_choice import Overlap, overlap

# Words that ACACGT is made of when it is all there is to learn from.
OWN = ("AC", "GT", "ACAC", "ACACGT")
BPE = Bpe((*SPECIALS, *"ACGT", *OWN, "TT"), ())
VOCABULARY = Vocabulary(NAMES, 6, BPE)
GUE = Path(__file__).parents[3] / "shared/data/_benchmarks/GUE"
PUBLISHED = os.environ.get("PUBLISHED_BPE")  # Genomics-FM's tokenizer_bpe/tokenizer.json


def task(texts, targets, kind="classes", outputs=("no", "yes")):
    examples = examples_of([encode(text) for text in texts], targets)
    return task_of(kind, dict.fromkeys(("train", "valid", "test"), examples), outputs)


def test_words_of_the_positives_are_counted():
    found = overlap(task(["ACACGT"] * 3 + ["TTTTTT"] * 3, [1, 1, 1, 0, 0, 0]), VOCABULARY)
    assert (found.learnt_from, found.sequences, found.bp) == ("class yes", 3, 18)
    assert found.words == 8 and found.shared == {"bpe": 8, "kmer": 1}
    assert found.choice == "bpe"


@pytest.mark.parametrize(
    "targets, kind, outputs, learnt_from, sequences",
    [
        ([0, 1, 2, 2], "classes", "abc", "all", 4),
        (np.float32([[0.5], [1], [2], [3]]), "values", "a", "all", 4),
        (np.float32([[0], [1], [1], [np.nan]]), "labels", "a", "label a", 2),
        (np.float32([[0, 1], [1, 0], [1, 0], [1, 1]]), "labels", "ab", "all", 4),
    ],
)
def test_which_sequences_are_learnt_from(targets, kind, outputs, learnt_from, sequences):
    found = overlap(task(["ACACGT"] * 4, targets, kind, tuple(outputs)), VOCABULARY)
    assert (found.learnt_from, found.sequences) == (learnt_from, sequences)


def test_sequences_with_unknown_bases_are_left_out():
    assert overlap(task(["ACACGT", "ACACGT", "ACNT"], [1, 1, 1]), VOCABULARY).sequences == 2
    with pytest.raises(UserError, match="no sequence of class yes in train is all of A, C, G, T"):
        overlap(task(["ACNT", "ACGT"], [1, 0]), VOCABULARY)


def test_as_many_in_both_means_k_mers():
    choices = [Overlap("", "", 1, 1, 9, {"bpe": n, "kmer": 5}).choice for n in (4, 5, 6)]
    assert choices == ["kmer", "kmer", "bpe"]


def test_one_vocabulary_leaves_nothing_to_choose():
    with pytest.raises(UserError, match="the vocabulary holds kmer alone"):
        overlap(task(["ACACGT"], [1]), VOCABULARY.only(["kmer"]))


def test_the_command_prints_a_line_for_each_task(tmp_path, capsys):
    VOCABULARY.write(tmp_path / FILE, {})
    rows = [("ACACGT", 1)] * 3 + [("TTTTTT", 0)] * 3
    folders = [write_splits(tmp_path / n, train=rows, dev=rows, test=rows) for n in ("one", "two")]
    args = build_parser().parse_args(
        ["choose-vocabulary", *map(str, folders), "--vocabulary", str(tmp_path)]
    )
    args.run(args)
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        [name, "class", "1", "3", "0", "8", "8", "1", "bpe"] for name in ("one", "two")
    ]


# Words of the task in the published BPE and among 6-mers, as found with the published file.
COUNTS = {
    "tf/0": (1072, 909),
    "tf/1": (1017, 947),
    "tf/2": (969, 850),
    "prom/prom_core_all": (588, 1033),  # the paper has 686 and 1008
}


@pytest.mark.skipif(not GUE.is_dir(), reason=f"the files of tasks are not in {GUE}")
@pytest.mark.parametrize("name", COUNTS)
def test_gue(name):
    """What is shared with 6-mers needs no published file, what is shared with its BPE does."""
    vocabulary = read_vocabulary(Path(PUBLISHED)) if PUBLISHED else VOCABULARY
    found = overlap(read_task(GUE / name), vocabulary)
    in_bpe, in_kmers = COUNTS[name]
    assert found.words == 4096 - 5
    assert found.shared["kmer"] == pytest.approx(in_kmers, rel=0.05)
    if PUBLISHED:
        assert found.shared["bpe"] == pytest.approx(in_bpe, rel=0.05)
        assert found.choice == ("bpe" if name.startswith("tf") else "kmer")
