"""The table over the tasks of a suite, of rows that several commands have made."""

import argparse
import json
from dataclasses import asdict

import numpy as np
import pytest
from small_models import write_export
from task_files import dna, write_splits

from spacescale import finetune
from spacescale.tasks.read_task import read_task
from spacescale.tuning.kept_tables import KeptTables
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.rows import Rows
from spacescale.tuning.settings import TuningSettings

ROWS = [(dna(i, 30), i % 2) for i in range(8)]
METHODS = ("yeast, full", "majority", "CNN", "scratch")
QUICK = ["--seeds", "1", "--epochs", "1", "--min-steps", "0", "--batch", "4", "--strands", "one"]


def write_task(folder):
    return write_splits(folder, train=ROWS, dev=ROWS, test=ROWS)


def test_a_command_on_some_tasks_keeps_the_others_in_the_table(tmp_path, capsys):
    """So p is corrected for all of them, and not for those of the last command."""
    for name in ("a", "b", "c"):
        write_task(tmp_path / "suite" / name)
    parser = argparse.ArgumentParser()
    finetune.add_options(parser, several=True)
    words = [tmp_path / "suite", "--weights", write_export(tmp_path / "tiny"), "--species", "finch"]
    words += ["--out", tmp_path / "out", "--lr", 1e-3, "--beside", "majority", *QUICK]
    for of_command in ("b", "a"):
        args = parser.parse_args([*map(str, words), "--tasks", of_command])
        assert finetune.run(args) == 0
        text = (tmp_path / "out" / "tiny_full.md").read_text()
        assert text.strip() == capsys.readouterr().out.strip()
    overview = [line for line in text.splitlines() if line.startswith(("| a |", "| b |", "| c |"))]
    assert [line[:5] for line in overview] == ["| a |", "| b |"]
    assert text.index("### a") < text.index("### b") and "### c" not in text
    of_training = "- ours: mean over positions, 1 epoch of batches of 4, 0 steps at least, "
    assert text.count(of_training) == text.count("test sequences seen in pretraining: not") == 2
    alone = argparse.ArgumentParser()
    finetune.add_options(alone)
    words = ["--task", tmp_path / "suite" / "a", *words[1:]]
    assert finetune.run(alone.parse_args([*map(str, words)])) == 0
    assert (tmp_path / "out" / "tiny_full.md").read_text() == text  # not of this task alone


def keep(task, out, seeds, key="key", methods=METHODS):
    """Rows of seeds, of which those of majority are but one."""
    ledger, truth = Ledger(task, Rows(out / task.name), "mcc"), task.splits["test"].targets
    found = np.stack([1.0 - truth, truth], axis=1)
    for method in methods:
        for seed in seeds if method != "majority" else (0,):
            settings = asdict(TuningSettings(seed=seed)) if method == "scratch" else {}
            ledger.add(method, seed, key, found, 1.0, settings)


def kept(tmp_path, fractions=(100.0,)):
    tasks = {"a": tmp_path / "a"}
    known = KeptTables(tasks, tmp_path / "out", "of yeast", lambda name, p: (read_task(p), None))
    return known.tables(METHODS, fractions)


@pytest.mark.parametrize("missing", ["model", "a seed", "a control's seed", "answers", "share"])
def test_what_is_not_finished_is_left_out(missing, tmp_path):
    task, out = read_task(write_task(tmp_path / "a")), tmp_path / "out"
    keep(task, out, (0, 1))
    (tables,) = kept(tmp_path).values()
    assert [line.method for line in tables[0].lines] == [*METHODS]
    assert [len(line.scores) for line in tables[0].lines] == [2, 1, 2, 2]
    rows = Rows(out / "a")
    if missing == "model":
        rows.drop("yeast_full-0")
        rows.drop("yeast_full-1")
    elif missing == "a seed":
        rows.drop("yeast_full-1")
    elif missing == "a control's seed":
        rows.drop("scratch-1")
    elif missing == "answers":
        (out / "a" / "answers" / "CNN-1.npy").unlink()
    assert kept(tmp_path, (10.0, 100.0) if missing == "share" else (100.0,)) == {}


def test_methods_that_were_not_asked_for_are_no_lines(tmp_path):
    keep(read_task(write_task(tmp_path / "a")), tmp_path / "out", (0, 1), methods=METHODS[:2])
    (tables,) = kept(tmp_path).values()
    assert [line.method for line in tables[0].lines] == [*METHODS[:2]]


def test_rows_of_which_some_are_made_anew_are_left_out(tmp_path):
    task = read_task(write_task(tmp_path / "a"))
    keep(task, tmp_path / "out", (0, 1))
    keep(task, tmp_path / "out", (0,), key="of other settings")
    assert kept(tmp_path) == {}


def test_rows_of_other_weights_or_files_are_left_out_and_said(tmp_path, caplog):
    keep(read_task(write_task(tmp_path / "a")), tmp_path / "out", (0, 1))
    config = tmp_path / "out" / "a" / "weights" / "yeast_full-1" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"trained": {"weights": "of yeast"}}))
    assert kept(tmp_path)
    config.write_text(json.dumps({"trained": {"weights": "of another"}}))
    assert kept(tmp_path) == {} and "tuned from other weights of the same name" in caplog.text
    config.unlink()
    write_splits(tmp_path / "a", test=ROWS[:6])
    assert kept(tmp_path) == {} and "6 test sequences; rows in" in caplog.text


def test_tables_are_made_again_where_rows_were_added(tmp_path):
    task, read = read_task(write_task(tmp_path / "a")), []
    keep(task, tmp_path / "out", (0, 1))
    known = KeptTables(
        {"a": tmp_path / "a", "b": tmp_path / "b"},
        tmp_path / "out",
        "of yeast",
        lambda name, path: read.append(name) or (task, None),
    )
    for _ in range(2):
        known.tables(METHODS, (100.0,))
    assert read == ["a"]
    keep(task, tmp_path / "out", (0, 1, 2))
    (tables,) = known.tables(METHODS, (100.0,)).values()
    assert read == ["a", "a"] and len(tables[0].lines[0].scores) == 3
