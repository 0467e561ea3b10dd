"""Files and folders that sequences are read from, and what their tasks are called."""

import gzip

import h5py
import numpy as np
import pytest
from planted_copies import random_genome

from spacescale.contamination import report
from spacescale.contamination.report import contamination
from spacescale.contamination.sequences import read_queries
from spacescale.errors import UserError
from spacescale.tasks.read_task import read_task
from spacescale.tasks.suites import find_tasks

NAMES = {"train": 12, "valid": 4, "test": 5}


def letters(seed, bp=40):
    return "".join("ACGT"[code] for code in random_genome(bp, seed=seed))


def write_task(folder, first=0):
    """Two splits of sequences, which follow from their number."""
    folder.mkdir(parents=True)
    for split, shift in (("train", 0), ("test", 50)):
        rows = [f"{letters(first + shift + i)},{i % 2}\n" for i in range(20)]
        (folder / f"{split}.csv").write_text("sequence,label\n" + "".join(rows))
    return folder


def write_archive(path):
    with h5py.File(path, "w") as file:
        for place, (split, number) in enumerate(NAMES.items()):
            words = [letters(100 * place + row) for row in range(number)]
            file[f"seq_{split}"] = np.array(words, dtype="S")
            file[f"y_{split}"] = np.arange(number, dtype=np.float32)[:, None]
    return path


def named(queries):
    return [(query.task, query.split, query.name) for query in queries]


def of_task(task):
    return [(task.name, split, n) for split, part in task.splits.items() for n in part.names]


def test_tasks_of_one_name_are_called_as_a_suite_calls_them(tmp_path):
    one, other = write_task(tmp_path / "a" / "same"), write_task(tmp_path / "b" / "same", 200)
    found = named(read_queries([tmp_path]))
    tasks = [read_task(path, name=name) for name, path in find_tasks(tmp_path).items()]
    assert [task.name for task in tasks] == ["a_same", "b_same"]
    assert found == [row for task in tasks for row in of_task(task)]
    with pytest.raises(UserError, match=r"two tasks are called same: .*a/same and .*b/same; exp"):
        read_queries([one, other])


def test_archives_are_read_as_tasks_are(tmp_path):
    file = write_archive(tmp_path / "K562_data.h5")
    expected = of_task(read_task(file))
    assert named(read_queries([file])) == expected and len(expected) == sum(NAMES.values())
    write_archive(tmp_path / "HepG2_data.h5")
    assert {query.task for query in read_queries([tmp_path])} == {"HepG2_data", "K562_data"}
    task = write_task(tmp_path / "motifs")
    found = named(read_queries([tmp_path]))
    assert {row[0] for row in found} == {"HepG2_data", "K562_data", "motifs"}
    assert len(set(found)) == len(found)  # none twice
    write_archive(task / "labels.h5")  # as BEND has them
    assert {query.task for query in read_queries([task])} == {"motifs"}


@pytest.mark.parametrize("column", ["sequence", "seq"])
def test_a_table_without_splits_is_one(tmp_path, column):
    file = tmp_path / "mine.csv.gz"
    file.write_bytes(gzip.compress(f"{column}\n{letters(1)}\n{letters(2)}\n".encode()))
    found = read_queries([file])
    assert named(found) == [("mine", "-", f"mine.csv.gz:{line}") for line in (2, 3)]
    assert found[1].codes.tolist() == random_genome(40, seed=2).tolist()


def test_a_parquet_table_called_after_a_split_is_of_its_task(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    file = tmp_path / "enhancers" / "test.parquet"
    file.parent.mkdir()
    parquet.write_table(pyarrow.table({"seq": [letters(1)], "name": ["first"]}), str(file))
    assert named(read_queries([file])) == [("enhancers", "test", "first")]


def test_files_of_a_split_are_called_as_the_task_calls_them(tmp_path):
    task = read_task(write_task(tmp_path / "motifs"))
    found = named(read_queries([tmp_path / "motifs" / "test.csv"]))
    assert found == [row for row in of_task(task) if row[1] == "test"]


def test_a_table_without_sequences_is_refused(tmp_path):
    (tmp_path / "mine.csv").write_text("letters\nACGT\n")
    with pytest.raises(UserError, match=r"mine\.csv: no column 'sequence' or 'seq'; it has let"):
        read_queries([tmp_path / "mine.csv"])


def test_weights_may_be_of_the_hub(run, tmp_path, monkeypatch):
    """By the same call as those of `finetune`."""
    monkeypatch.setattr(report, "local_folder", {"org/name": run}.__getitem__)
    (tmp_path / "mine.csv").write_text(f"sequence\n{letters(1)}\n")
    assert "0 of 1 sequences" in contamination("org/name", [tmp_path / "mine.csv"])
