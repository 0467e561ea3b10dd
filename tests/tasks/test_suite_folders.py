"""Which tasks a folder of a suite holds, and what they are called."""

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from task_files import dna, table, write, write_splits

from spacescale.errors import UserError
from spacescale.tasks.read_task import read_task
from spacescale.tasks.suites import find_tasks

HEADER = ("sequence", "label", "split")
ROWS = [(dna(i), i % 2, split) for i, split in enumerate(["train"] * 4 + ["dev", "test"])]
PAIRS = [(dna(1), 0), (dna(2), 1)]


def write_archive(path):
    with h5py.File(path, "w") as file:
        for first, split in enumerate(("train", "valid", "test")):
            file[f"seq_{split}"] = np.array([dna(10 * first + i) for i in range(4)], dtype="S")
            file[f"y_{split}"] = np.arange(4.0)
    return path


def test_files_that_are_a_task_each(tmp_path):
    write(tmp_path / "one.csv", table(ROWS, HEADER))
    write(tmp_path / "below" / "two.tsv.gz", table(ROWS, HEADER, "\t"))
    columns = dict(zip(HEADER, map(list, zip(*ROWS, strict=True)), strict=True))
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "three.parquet")
    write_archive(tmp_path / "K562.h5")
    write_splits(tmp_path / "folder", train=PAIRS, dev=PAIRS, test=PAIRS)
    found = find_tasks(tmp_path)
    assert found == {
        "K562": tmp_path / "K562.h5",
        "folder": tmp_path / "folder",
        "one": tmp_path / "one.csv",
        "three": tmp_path / "three.parquet",
        "two": tmp_path / "below" / "two.tsv.gz",
    }
    layouts = {name: read_task(path, name=name).layout for name, path in found.items()}
    assert layouts == {"K562": "archive", "folder": "tables"} | dict.fromkeys(
        ("one", "two", "three"), "one_table"
    )
    assert list(find_tasks(tmp_path, ["t*"])) == ["two", "three"]
    write(tmp_path / "other" / "one.csv", table(ROWS, HEADER))
    assert {"one.csv", "other_one.csv"} < set(find_tasks(tmp_path))


def test_files_that_are_none(tmp_path):
    task = write_splits(tmp_path / "folder", train=PAIRS, test=PAIRS)
    write(task / "all.csv", table(ROWS, HEADER))  # beside the splits, of which it may be made
    write_archive(task / "labels.h5")
    write(tmp_path / "plain.csv", table(PAIRS))
    write(tmp_path / "empty.csv", "")
    write(tmp_path / "._one.csv", table(ROWS, HEADER))
    report = ("task", "split", "sequence", "verdict")
    write(tmp_path / "seen.tsv", table([("a", "test", "1", "same")], report, "\t"))
    with h5py.File(tmp_path / "labels.hdf5", "w") as file:
        file["labels"] = np.zeros(3)
    assert find_tasks(tmp_path) == {"folder": task}
    with pytest.raises(UserError, match=r"holds no task.* a table with a column split, an \.h5"):
        find_tasks(write(tmp_path / "none" / "plain.csv", table(PAIRS)).parent)


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path):
    write(tmp_path / "one.csv", table(ROWS, HEADER))
    damaged = write(tmp_path / "two.parquet", "PAR1 and no more")
    assert find_tasks(tmp_path) == {"one": tmp_path / "one.csv", "two": damaged}
    with pytest.raises(UserError, match=r"two\.parquet cannot be read as a Parquet table"):
        read_task(damaged)


def test_the_folder_of_shards_is_no_task_beside_the_one_above(tmp_path):
    shards = dict.fromkeys(("train-00000-of-00001", "test-00000-of-00001"), PAIRS)
    write_splits(tmp_path / "set" / "data", **shards)
    assert find_tasks(tmp_path) == {"set": tmp_path / "set"}
    assert find_tasks(tmp_path / "set" / "data") == {"data": tmp_path / "set" / "data"}
    write_splits(tmp_path / "plain" / "data", train=PAIRS, test=PAIRS)
    assert find_tasks(tmp_path)["data"] == tmp_path / "plain" / "data"
