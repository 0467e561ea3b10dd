"""Sequences that are in a task twice."""

from pathlib import Path

import numpy as np
from task_files import letters

from spacescale.genome.dna import encode, reverse_complement
from spacescale.tasks.duplicates import Counts, Duplicates, find_duplicates, without_copies
from spacescale.tasks.task import Examples, Task

A, B, C, D = "AACCGTTA", "ACCCGTTA", "ATCCGTNA", "GGGTCA"
BACK_A, BACK_C = (letters(reverse_complement(encode(one))) for one in (A, C))


def task_of(kind="classes", groups=None, **splits):
    found = {}
    for split, rows in splits.items():
        targets = [target for _, target in rows]
        shaped = np.array(targets, np.int64 if kind == "classes" else np.float32)
        names = [str(row) for row in range(len(rows))]
        codes = [encode(sequence) for sequence, _ in rows]
        found[split] = Examples(codes, shaped, names, tuple((groups or {}).get(split, ())))
    return Task("made up", Path(), "tables", kind, ("0", "1"), found)


def test_copies_within_and_between_splits_on_one_strand_and_on_both():
    task = task_of(
        train=[(A, 0), (A, 0), (BACK_A, 1), (B, 1), (A, 0)],
        valid=[(BACK_A, 0), (C, 1)],
        test=[(B, 0), (BACK_C, 1), (B, 0), (D, 1)],
    )
    report = find_duplicates(task)
    assert report.within["train"] == Duplicates(Counts(1, 1), Counts(2, 3), Counts(0, 1))
    assert report.within["valid"] == Duplicates(Counts(0, 0), Counts(0, 0), Counts(0, 0))
    assert report.within["test"] == Duplicates(Counts(1, 1), Counts(1, 1), Counts(0, 0))
    train_valid = report.between["train", "valid"]
    assert train_valid == Duplicates(Counts(1, 1), Counts(1, 1), Counts(1, 1))
    train_test = report.between["train", "test"]
    assert train_test == Duplicates(Counts(1, 1), Counts(2, 2), Counts(1, 1))
    valid_test = report.between["valid", "test"]
    assert valid_test == Duplicates(Counts(0, 1), Counts(0, 1), Counts(0, 0))
    assert report.shared_groups == {
        ("train", "valid"): 0, ("train", "test"): 0, ("valid", "test"): 0,
    }  # fmt: skip
    assert without_copies(task).tolist() == [3]


def test_what_was_read_as_n_is_n():
    task = task_of(train=[("AACRTC", 0)], test=[("AACNTC", 0), ("AACGTC", 0), ("GANGTT", 1)])
    train_test = find_duplicates(task).between["train", "test"]
    assert train_test.sequences == Counts(1, 1) and train_test.rows == Counts(1, 2)
    assert without_copies(task).tolist() == [1]


def test_labels_contradict_where_both_are_known():
    nan = np.nan
    rows = [(A, [nan, 1]), (A, [0, 1]), (A, [0, nan]), (B, [nan, nan]), (B, [nan, nan])]
    task = task_of("labels", train=rows, test=[(A, [1, 1]), (B, [0, 0])])
    report = find_duplicates(task)
    assert report.within["train"].contradictory == Counts(0, 0)
    assert report.between["train", "test"].contradictory == Counts(1, 1)


def test_values_never_contradict():
    task = task_of("values", train=[(A, [1.5]), (A, [2.5])], test=[(A, [0.5])])
    report = find_duplicates(task)
    assert report.within["train"] == Duplicates(Counts(1, 1), Counts(1, 1), Counts(0, 0))
    assert report.between["train", "test"].contradictory == Counts(0, 0)


def test_sequences_of_one_group_are_copies():
    groups = {"train": ["a", "b"], "test": ["b", "c", "d"]}
    task = task_of(train=[(A, 0), (B, 1)], test=[(C, 0), (D, 0), (BACK_A, 1)], groups=groups)
    assert find_duplicates(task).shared_groups == {("train", "test"): 1}
    assert without_copies(task).tolist() == [1]
