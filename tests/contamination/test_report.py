"""The command, from a checkpoint and files of sequences to a table and a summary."""

import csv
import sys

import numpy as np
import pytest
from made_up_runs import checkpoint_of, genome_of
from planted_copies import altered, random_genome
from small_datasets import SPAN

from spacescale import cli
from spacescale.contamination import verdicts
from spacescale.contamination.report import contamination
from spacescale.contamination.seen import TRAIN, read_training, seen_windows
from spacescale.contamination.sequences import Query, decoys, read_queries
from spacescale.contamination.verdicts import DEFAULT_LIMITS, Limits, Searched, judge
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.tasks.read_task import read_task
from spacescale.tuning.seen import read_seen, seen_of


def letters(codes):
    return "".join("ACGTN"[code] for code in codes)


def write_table(path, sequences):
    path.parent.mkdir(exist_ok=True)
    rows = "".join(f"{letters(one)},{i % 2}\n" for i, one in enumerate(sequences))
    path.write_text("sequence,label\n" + rows)
    return path


def a_seen_window(run):
    """Start of a target of finch's that was read, and how often."""
    windows = seen_windows(read_training(run), [])[0]["finch"]
    place = int(np.flatnonzero(windows.times)[-1])
    return int(windows.data.windows.start[windows.data.rows("train")[place]]), windows


@pytest.fixture
def benchmark(run, tmp_path):
    """A task in splits, of sequences of which is known what they are."""
    (train, valid, test), random = genome_of(1), np.random.default_rng(0)
    start, _ = a_seen_window(run)
    copy = train[start + 20 : start + 120]
    half_unknown = copy.copy()
    half_unknown[60:] = dna.N
    sequences = {
        "test": [copy, dna.reverse_complement(altered(copy, 0.85, False, random)), test[:100]],
        "dev": [valid[300:400], np.append(copy[:40], random_genome(100, seed=9)), half_unknown],
        "train": [np.full(90, dna.N, dtype=np.uint8), copy[:12]],
    }
    for split, of_split in sequences.items():
        write_table(tmp_path / "task" / f"{split}.csv", of_split)
    return tmp_path / "task"


def number_of(name):
    """From 1, of FILE:LINE."""
    return int(name.split(":")[-1]) - 1


def rows_of(path):
    with path.open() as file:
        return {
            (row["split"], number_of(row["sequence"])): row
            for row in csv.DictReader(file, delimiter="\t")
        }


def test_the_table_tells_what_each_sequence_is(run, benchmark, tmp_path, capsys, monkeypatch):
    out = tmp_path / "report.tsv"
    words = ["contamination", str(run), "--sequences", str(benchmark), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["spacescale", *words])
    assert cli.main() == 0
    rows = rows_of(out)
    start, windows = a_seen_window(run)
    assert {key: row["verdict"] for key, row in rows.items()} == {
        ("test", 1): "same",
        ("test", 2): "similar",
        ("test", 3): "none",
        ("valid", 1): "validation",
        ("valid", 2): "part",
        ("valid", 3): "same",
        ("train", 1): "too short",
        ("train", 2): "too short",
    }
    same = rows["test", 1]
    in_target, in_input, _ = windows.readings("chrI", start + 70)
    assert same["place"] == f"chrI:{start + 20}-{start + 120}" and same["species"] == "finch"
    assert (same["identity"], same["aligned_bp"], same["strand"]) == ("1", "100", "+")
    assert (same["times_in_target"], same["times_in_input"]) == (str(in_target), str(in_input))
    assert in_target >= 1 and same["seen_as"] == "target" and same["other_splits"] == ""
    similar = rows["test", 2]
    assert similar["strand"] == "-" and 0.8 <= float(similar["identity"]) < 0.95
    valid = rows["valid", 1]
    assert valid["seen_as"] == "validation" and valid["other_splits"] == "valid"
    assert valid["place"] == valid["valid_place"] == "chrII:300-400"
    assert rows["valid", 2]["aligned_bp"] == "40"
    printed = capsys.readouterr().out
    assert "2 of 8 sequences (25.0 %) lie in what training read" in printed
    assert "1 (12.5 %) are similar" in printed


@pytest.mark.parametrize("unknown", [10, 20, 40, 60, 70])
@pytest.mark.parametrize("scattered", [False, True])
def test_a_copy_is_the_same_however_many_of_its_bases_are_unknown(run, scattered, unknown):
    searched = Searched(seen_windows(read_training(run), [])[0])
    read = next(
        one
        for one in searched.seen["finch"].stretches()
        if one.kind == TRAIN and one.end - one.start >= 180
    )
    copy = read.data.bases(read.contig, read.start, read.start + 180).copy()
    places = np.random.default_rng(1).permutation(180) if scattered else np.arange(60, 180)
    copy[places[: unknown // 2 if scattered else unknown]] = dna.N
    (result,) = judge([Query("task", "test", "copy", copy)], searched, DEFAULT_LIMITS)
    assert result.verdict == "same" and result.train is not None
    assert result.train.identity == 1
    assert result.train.aligned_bp == pytest.approx(np.count_nonzero(copy != dna.N), abs=10)


def test_what_lies_between_targets_was_read_as_context(run, tmp_path):
    """Bases that are in inputs of windows that were read, and in the target of none."""
    _, windows = a_seen_window(run)
    rows = windows.data.rows("train")
    place = int(np.flatnonzero((windows.times[:-1] > 0) & (windows.times[1:] == 0))[0])
    end = int(windows.data.windows.end[rows[place]])
    sequence = genome_of(1)[0][end : end + 30]
    assert windows.reach > 30
    file = write_table(tmp_path / "one.csv", [sequence])
    contamination(run, [file], out=tmp_path / "r.tsv")
    row = rows_of(tmp_path / "r.tsv")["-", 1]
    assert (row["verdict"], row["seen_as"], row["times_in_target"]) == ("same", "context", "0")
    assert int(row["times_in_input"]) >= 1


def test_what_the_run_has_not_read_is_not_found(run, tmp_path):
    _, windows = a_seen_window(run)
    unread = int(np.flatnonzero(windows.times == 0)[0])
    start = int(windows.data.windows.start[windows.data.rows("train")[unread]]) + SPAN // 2
    middle = genome_of(1)[0][start - 25 : start + 25]
    file = write_table(tmp_path / "one.csv", [middle])
    before = contamination(run, [file])
    assert "0 of 1 sequences" in before
    assert "1 of 1 sequences" in contamination(run, [file], steps=100)


def test_sequences_are_searched_some_bases_at_a_time(run, benchmark, tmp_path, monkeypatch):
    contamination(run, [benchmark], out=tmp_path / "whole.tsv")
    monkeypatch.setattr(verdicts, "QUERIES_BP", 150)
    contamination(run, [benchmark], out=tmp_path / "parts.tsv")
    assert (tmp_path / "parts.tsv").read_text() == (tmp_path / "whole.tsv").read_text()


def test_an_exact_half_of_a_sequence_is_enough(run, tmp_path):
    """Whatever the other half is like."""
    train = genome_of(1)[0]
    like = altered(train[1500:2000], 0.7, False, np.random.default_rng(0))
    file = write_table(tmp_path / "one.csv", [np.append(train[100:600], like)])
    contamination(run, [file], out=tmp_path / "r.tsv", steps=100)
    row = rows_of(tmp_path / "r.tsv")["-", 1]
    assert (row["verdict"], row["identity"], row["aligned_bp"]) == ("same", "1", "500")


def test_finetune_knows_sequences_and_weights_of_a_table_again(run, data, benchmark, tmp_path):
    out, other = tmp_path / "r.tsv", tmp_path / "other"
    contamination(run, [benchmark], out=out)
    task = read_task(benchmark)
    seen = seen_of(task, read_seen(out, run), out)
    assert (seen.share, seen.unseen.tolist()) == (pytest.approx(2 / 3), [2])
    assert seen.weights == "run/step-00000003"
    checkpoint_of(other, data, 4)
    with pytest.raises(UserError, match="of the weights run/step-00000003, whose training or step"):
        read_seen(out, other)
    lines = (benchmark / "test.csv").read_text().splitlines()
    (benchmark / "test.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(UserError, match=r"test sequence test\.csv:\d was another one"):
        seen_of(read_task(benchmark), read_seen(out), out)


def test_limits_decide_what_counts(run, benchmark):
    assert "1 (12.5 %) are similar" in contamination(run, [benchmark])
    assert "0 (0.0 %) are similar" in contamination(run, [benchmark], limits=Limits(identity=0.93))
    wide = contamination(run, [benchmark], limits=Limits(cover=0.2))
    assert "3 of 8 sequences" in wide


def test_the_background_is_of_each_split_and_read_backwards(benchmark):
    queries = read_queries([benchmark])
    found = decoys(queries, at_most=2)
    assert [(one.task, one.split, one.name) for one in found] == [
        ("task", "train", "train.csv:2"), ("task", "train", "train.csv:3"),
        ("task", "valid", "dev.csv:2"), ("task", "valid", "dev.csv:4"),
        ("task", "test", "test.csv:2"), ("task", "test", "test.csv:4"),
    ]  # fmt: skip
    assert found[4].codes.tolist() == queries[5].codes[::-1].tolist()


def test_splits_and_tasks_are_named_by_files(tmp_path):
    one = write_table(tmp_path / "enhancers" / "test.csv", [random_genome(40)])
    assert [(q.task, q.split) for q in read_queries([one])] == [("enhancers", "test")]
    other = write_table(tmp_path / "mine.csv", [random_genome(40)])
    assert [(q.task, q.split) for q in read_queries([other])] == [("mine", "-")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no task, nor does a folder below"):
        read_queries([tmp_path / "empty"])


def test_a_task_in_one_table_has_its_own_splits(tmp_path):
    """Called as `finetune` calls its sequences, which a table of scores is held against."""
    file = tmp_path / "one.csv"
    rows = [("train", 0), ("train", 1), ("valid", 0), ("test", 1), ("test", 0)]
    text = "".join(f"{letters(random_genome(40 + i))},{y},{s}\n" for i, (s, y) in enumerate(rows))
    file.write_text("sequence,value,split\n" + text)
    found = [(q.task, q.split, q.name) for q in read_queries([file])]
    task = read_task(file)
    assert found == [
        ("one", split, name) for split, part in task.splits.items() for name in part.names
    ]
    assert {split for _, split, _ in found} == {"train", "valid", "test"}


def test_a_suite_is_read_task_by_task(tmp_path):
    for task, size in (("one", 12), ("two", 15)):
        for split in ("train", "test"):
            (tmp_path / task / split / "yes").mkdir(parents=True)
            for i in range(size):
                file = tmp_path / task / split / "yes" / f"{i}.txt"
                file.write_text(letters(random_genome(30 + i)))
            (tmp_path / task / split / "no").mkdir()
            for i in range(size):
                file = tmp_path / task / split / "no" / f"{i}.txt"
                file.write_text(letters(random_genome(50 + i)))
    queries = read_queries([tmp_path])
    assert [sum(q.task == task for q in queries) for task in ("one", "two")] == [48, 60]
    assert {q.split for q in queries} == {"train", "valid", "test"}


@pytest.mark.parametrize("limits", [{"identity": 0}, {"identity": 1.2}, {"cover": -1}])
def test_limits_are_shares(limits):
    with pytest.raises(UserError, match=r"^--(identity|cover) .*above 0, and 1 at most"):
        Limits(**limits)


def test_the_name_of_the_table_is_looked_at_first(tmp_path):
    with pytest.raises(UserError, match=r"--out .*r\.csv: expected a name that ends with"):
        contamination(tmp_path / "nothing", [tmp_path / "none"], out=tmp_path / "r.csv")
    (tmp_path / "r.tsv").touch()
    with pytest.raises(UserError, match=r"r\.tsv: already exists; choose another --out"):
        contamination(tmp_path / "nothing", [tmp_path / "none"], out=tmp_path / "r.tsv")
