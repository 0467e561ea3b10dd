"""What `finetune` and `probe` say of faulty and of odd tasks: one line, or a table with notes."""

import json
import sys

import h5py
import numpy as np
import pytest
from commands import MANY_RUNS, REPO, SPACESCALE, deepspeed_launcher, run, run_here
from task_files import dna, table, write, write_splits

from spacescale.genome.dna import encode, reverse_complement

GOOD = [(dna(i, 30), i % 2) for i in range(8)]
FINETUNE = ["--seeds", "1", "--epochs", "1", "--min-steps", "0", "--batch", "4", "--beside"]
PROBE = ["--seeds", "1", "--heads", "ridge", "--feed", "alone", "--beside"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    sys.path += [str(REPO / "tests" / room) for room in ("model", "predict")]
    from small_models import write_export

    return write_export(tmp_path_factory.mktemp("weights") / "tiny")


def words(weights, task, out):
    """What both commands take."""
    found = ["--weights", weights, "--species", "finch", "--task", task, "--out", out]
    return [str(word) for word in found]


def splits(folder, **changed):
    return write_splits(folder, **({"train": GOOD, "dev": GOOD, "test": GOOD} | changed))


def a_gap(folder):
    return splits(folder, train=[*GOOD, (dna(9), 3)])


def no_number(folder):
    return splits(folder, train=[*GOOD, (dna(9), "0.5")])


def an_empty_class(folder):
    return splits(folder, test=[*GOOD, (dna(9), 2)])


def an_empty_class_folder(folder):
    for split in ("train", "test"):
        write(folder / split / "a" / "1.txt", dna(1))
        (folder / split / "b").mkdir()
    return folder


def a_protein(folder):
    return splits(folder, train=[*GOOD, ("MKVLWAALLVTFLAGC", 1)])


def a_letter(folder):
    return splits(folder, train=[*GOOD, ("ACGTEACGTACGT", 1)])


def a_missing_split(folder):
    write_splits(folder, train=GOOD, dev=GOOD)
    return folder


def labels_of_bases(folder):
    write(folder / "genome.fa", f">chr1\n{dna(1, 100)}\n")
    rows = [("chr1", 0, 20, "train"), ("chr1", 20, 40, "train"), ("chr1", 40, 60, "test")]
    path = write(folder / "genes.bed", table(rows, ("chromosome", "start", "end", "split"), "\t"))
    with h5py.File(folder / "genes.hdf5", "w") as file:
        file["labels"] = np.arange(60).reshape(3, 20) % 9
    return path


FAULTS = [
    (a_gap, "train.csv:10: label '3', but none is 2; expected 0…C−1 without a gap"),
    (no_number, "train.csv:10: label '0.5', expected whole numbers 0…C−1"),
    (an_empty_class, "test.csv:10: class '2' is in test and not in train, where it is empty"),
    (an_empty_class_folder, "train/b: no .txt in it; expected a sequence of this class in each"),
    (a_protein, "train.csv:10: sequence: 62 % of the letters are not ACGTN; is this a protein"),
    (a_letter, "train.csv:10: sequence:5 has 'E', which is no DNA letter"),
    (a_missing_split, "no test split in its files dev.csv, train.csv; expected train and test"),
    (labels_of_bases, "labels are int64 (3, 20), one for each base of a sequence of 20 bp"),
]


@pytest.fixture(scope="module")
def refused(weights, tmp_path_factory):
    """Fault → what `finetune` said of it, and where its results would be; all in one process."""
    root = tmp_path_factory.mktemp("faults")
    calls = []
    for make, _ in FAULTS:
        task = make(root / make.__name__)
        out = root / "out" / make.__name__
        calls.append([*words(weights, task, out), *FINETUNE, *genome_of(make, task)])
    given, found = root / "calls.json", root / "outcomes.json"
    given.write_text(json.dumps(calls))
    done = run(sys.executable, MANY_RUNS, "spacescale.finetune", given, found)
    assert done.returncode == 0, done.stderr
    names = [make.__name__ for make, _ in FAULTS]
    return root, dict(zip(names, json.loads(found.read_text()), strict=True))


def genome_of(make, task):
    return ["--genome", str(task.parent / "genome.fa")] if make is labels_of_bases else []


@pytest.mark.parametrize("make, message", FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_faulty_task_is_one_line_of_finetune(make, message, refused):
    root, outcomes = refused
    status, stderr = outcomes[make.__name__]
    require_one_error(status, stderr, message)
    assert not (root / "out").exists()


@pytest.mark.parametrize("make, message", FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_faulty_task_is_one_line_of_probe(make, message, weights, tmp_path):
    task = make(tmp_path / "task")
    given = words(weights, task, tmp_path / "out")
    done = run_here(SPACESCALE, "probe", *given, *PROBE, *genome_of(make, task))
    require_one_error(done.returncode, done.stderr, message)
    assert not (tmp_path / "out").exists()


def require_one_error(status, stderr, message):
    assert status == 2
    (error,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert message in error


def turned(letters):
    return "".join("ACGTN"[code] for code in reverse_complement(encode(letters)))


@pytest.mark.long
@pytest.mark.parametrize("command, more, name", [
    ("finetune", [*FINETUNE, "majority", "--mode", "head"], "tiny, head"),
    ("probe", PROBE, "tiny pointwise alone, ridge"),
])  # fmt: skip
def test_a_test_split_of_copies_and_weights_that_are_here(command, more, name, weights, tmp_path):
    """Of a split that is all copies nothing is left, which is told; `.` is called as its folder."""
    copies = [(turned(letters) if i % 2 else letters, y) for i, (letters, y) in enumerate(GOOD)]
    task = splits(tmp_path / "task", test=copies)
    given = words(".", task, tmp_path / "out")
    done = run(SPACESCALE, command, *given, *more, cwd=weights, PYTHONPATH=REPO)
    assert done.returncode == 0, done.stderr
    assert "| without copies (0) |" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {name} | 1 | ")]
    assert line.split(" | ")[4] == "–"
    rows = [json.loads(row) for row in (tmp_path / "out/task/rows.jsonl").open()]
    assert all(row["num_unique"] == 0 and row["unique"]["mcc"] is None for row in rows)
    if command == "finetune":
        assert "- majority: every sequence is predicted to be 0: MCC is 0" in done.stdout
        (flagged,) = [row for row in rows if row["method"] == "majority"]
        assert flagged["scores"]["constant"] == 1 and flagged["scores"]["mcc"] == 0


@pytest.mark.slow
def test_splits_of_fewer_sequences_than_processes(weights, tmp_path):
    """One sequence validates and one tests; of train each process needs one."""
    launch = [*deepspeed_launcher(), "spacescale/finetune.py"]
    task = splits(tmp_path / "task", dev=GOOD[:1], test=GOOD[1:2])
    done = run(*launch, *words(weights, task, tmp_path / "out"), *FINETUNE, "random frozen")
    assert done.returncode == 0, done.stderr
    for name in ("tiny_full", "random_frozen"):
        answers = np.load(tmp_path / "out/task/answers" / f"{name}-0.npy")
        assert answers.shape == (1, 2) and answers.sum() == pytest.approx(1)
    one = tmp_path / "one"
    for split in ("train", "dev", "test"):
        write(one / f"{split}.csv", table([(dna(1), 0.5)], ("sequence", "value")))
    done = run(*launch, *words(weights, one, tmp_path / "other"), *FINETUNE)
    assert done.returncode == 2
    message = "error: one: the training split has 1 sequences; 2 processes need as many"
    assert done.stderr.count(message) == 1
