"""What label columns mean: classes, labels, values, and what a given kind changes."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from task_files import dna, table, write

from spacescale.tasks.read_task import read_task


def read(folder, header, train, test, **settings):
    """A task of these cells beside sequences; the first row of train validates."""
    for number, (split, rows) in enumerate(
        {"train": train, "dev": train[:1], "test": test}.items()
    ):
        cells = [(dna(100 * number + i), *row) for i, row in enumerate(rows)]
        write(folder / f"{split}.tsv", table(cells, ("sequence", *header), "\t"))
    return read_task(folder, **settings)


def test_numbers_are_classes_as_they_stand(tmp_path):
    rows = [(number,) for number in (2, 0, 1, 10, *range(3, 10))]
    task = read(tmp_path, ["label"], rows, [("10",)])
    assert task.outputs == tuple(map(str, range(11)))
    assert task.splits["train"].targets[:4].tolist() == [2, 0, 1, 10]


def test_words_are_sorted_and_numbered_which_is_told(tmp_path):
    task = read(tmp_path, ["label"], [("pos",), ("none",), ("1a",)], [("none",), ("pos",)])
    assert task.outputs == ("1a", "none", "pos")
    assert task.splits["train"].targets.tolist() == [2, 1, 0]
    assert task.notes == [
        "classes are numbered in the order of their words: 0 1a, 1 none, 2 pos",
        "classes without a sequence in test: 1a",
    ]


def test_words_may_hold_commas(tmp_path):
    rows = [("promoter, distal",), ("7,none",)]
    assert read(tmp_path, ["label"], rows, rows[:1]).outputs == ("7,none", "promoter, distal")
    rows = [("0,1",), ("1,1",)]
    assert read(tmp_path, ["label"], rows, rows[:1]).outputs == ("0", "1")
    assert read(tmp_path, ["label"], rows, rows[:1]).kind == "labels"
    assert read(tmp_path, ["label"], rows, rows[:1], kind="classes").outputs == ("0,1", "1,1")


def as_parquet(folder, column, **splits):
    for number, (split, cells) in enumerate(splits.items()):
        sequences = [dna(100 * number + i) for i in range(len(cells))]
        columns = pyarrow.table({"sequence": sequences, column: cells})
        pyarrow.parquet.write_table(columns, folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("cells", [
    ("0,1,1", "1,0,0"), ('"[0, 1, 1]"', '"[1, 0, 0]"'), ("[0,1,1]", "[1,0,0]"),
    ("[0 1 1]", "[1 0 0]"), ("[0. 1. 1.]", "[1. 0. 0.]"),
])  # fmt: skip
def test_a_list_in_a_cell_is_several_labels(tmp_path, cells):
    rows = [(cell,) for cell in cells]
    task = read(tmp_path, ["label"], rows, rows[1:])
    assert (task.kind, task.outputs) == ("labels", ("0", "1", "2"))
    assert task.splits["train"].targets.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert task.splits["test"].targets.tolist() == [[1, 0, 0]]


def test_a_column_of_lists_is_several_labels_or_values(tmp_path):
    labels = [[0, 1, 1], [1, None, 0]]
    task = read_task(as_parquet(tmp_path, "label", train=labels, dev=labels, test=labels[:1]))
    assert (task.kind, task.outputs) == ("labels", ("0", "1", "2"))
    np.testing.assert_array_equal(
        task.splits["valid"].targets, np.float32([[0, 1, 1], [1, np.nan, 0]])
    )
    assert task.splits["test"].targets.tolist() == [[0, 1, 1]]
    values = [[0.5, -2.0], [1.5, 3.0]]
    for column, kind in (("label", "values"), ("target", None), ("value", None)):
        as_parquet(tmp_path, column, train=values, dev=values, test=values)
        task = read_task(tmp_path, kind=kind)
        assert task.kind == "values" and len(task.outputs) == 2
        assert task.splits["train"].targets.tolist() == values


def test_several_labels(tmp_path):
    task = read(tmp_path, ["label_DNase", "label:CTCF"], [(0, 1), (1, "NA")], [(1, 1)])
    assert (task.kind, task.outputs) == ("labels", ("DNase", "CTCF"))
    np.testing.assert_array_equal(task.splits["train"].targets, np.float32([[0, 1], [1, np.nan]]))
    assert task.splits["train"].targets.dtype == np.float32


@pytest.mark.parametrize("columns, outputs", [
    (["value"], ("value",)), (["target"], ("target",)), (["value_HepG2", "value_K562"],
                                                         ("HepG2", "K562")),
])  # fmt: skip
def test_values(tmp_path, columns, outputs):
    rows = [("-1.5e-1", "nan"), ("", "3"), ("7", "")]
    rows = [row[: len(columns)] for row in rows]
    task = read(tmp_path, columns, rows, rows[2:])
    assert (task.kind, task.outputs) == ("values", outputs)
    expected = np.float32([[-0.15, np.nan], [np.nan, 3], [7, np.nan]])[:, : len(columns)]
    np.testing.assert_array_equal(task.splits["train"].targets, expected)


def test_a_given_kind_overrides_the_name_of_a_column(tmp_path):
    cells = [("0",), ("1",)], [("1",)]
    assert read(tmp_path, ["label"], *cells).kind == "classes"
    labels = read(tmp_path, ["label"], *cells, kind="labels")
    assert (labels.kind, labels.outputs) == ("labels", ("label",))
    assert labels.splits["train"].targets.tolist() == [[0.0], [1.0]]
    values = read(tmp_path, ["label"], [("0.5",), ("3",)], [("1",)], kind="values")
    assert values.splits["train"].targets.tolist() == [[0.5], [3.0]]
    classes = read(tmp_path, ["target"], *cells, kind="classes")
    assert (classes.kind, classes.splits["test"].targets.tolist()) == ("classes", [1])


@pytest.mark.parametrize("header, cells, said", [
    ("target", "0 1 2 1", True), ("Target", "0.0 1 0", True), ("target", "0 1 3", False),
    ("target", "0 0", False), ("target", "1 2", False), ("target", "0 1 1.5", False),
    ("target", "0 1 nan", False), ("value", "0 1 2", False),
    ("target", " ".join(map(str, range(20))), True),
    ("target", " ".join(map(str, range(21))), False),
])  # fmt: skip
def test_values_that_may_be_classes_are_told(tmp_path, header, cells, said):
    rows = [(cell,) for cell in cells.split()]
    task = read(tmp_path, [header], rows, rows[:2])
    assert task.kind == "values" and bool(task.notes) == said
    if said:
        top = len(set(map(float, cells.split()))) - 1
        assert task.notes == [
            f"column {header!r} holds only 0 to {top}, which are learnt as values; "
            "--kind classes learns them as classes"
        ]
    assert read(tmp_path, [header], rows, rows[:2], kind="values").notes == []


def test_a_given_kind_chooses_among_columns(tmp_path):
    header, cells = ["value", "label_a", "label_b"], [(2.5, 0, 1), (1, 1, 1)]
    assert read(tmp_path, header, cells, cells, kind="labels").outputs == ("a", "b")
    assert read(tmp_path, header, cells, cells, kind="values").outputs == ("value",)


def test_columns_of_the_splits_may_stand_in_another_order(tmp_path):
    read(tmp_path, ["label_a", "label_b"], [(0, 1), (1, 0)], [(0, 1)])
    write(tmp_path / "test.tsv", table([(0, 1, dna(1))], ("label_b", "label_a", "seq"), "\t"))
    assert read_task(tmp_path).splits["test"].targets.tolist() == [[1, 0]]
