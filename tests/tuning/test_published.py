"""Published values beside a table, and whether they are of the same sequences."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_tasks import motif_task

from spacescale.finetune import add_options
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.published import PROTOCOLS, VALUES, metric_of_suite, published
from spacescale.tuning.rows import Rows
from spacescale.tuning.table import table_of, task_lines


def test_every_value_is_a_share_and_every_task_is_there_once():
    rows = json.loads(VALUES.read_text())
    assert {row["suite"] for row in rows} == PROTOCOLS.keys()
    names = [(row["suite"], row["task"]) for row in rows]
    assert len(names) == len(set(names)) == 55
    values = [row[key] for row in rows for key in ("space", "best_other") if row[key] is not None]
    assert all(0.39 < value < 1 for value in values)


def test_other_sizes_are_told():
    task = replace(motif_task(sizes=(4000, 613, 613)), name="prom_core_tata", layout="tables")
    known = published(task)
    assert known is not None
    text = known.in_words(task)
    assert "published (GUE), mcc: SPACE 0.792, best of its rivals 0.781" in text
    assert text.endswith("the suite has 4,904 train sequences, here are 4,000")
    assert known.protocol.startswith("all weights, sum over positions, live BatchNorm; as printed")
    assert "10,000 steps of 32" in known.protocol
    assert published(replace(task, name="mine")) is None
    marks = replace(task, name="H3K4me1", path=Path("GUE/EMP/H3K4me1"))
    of_yeast = published(marks)
    assert of_yeast is not None and of_yeast.space == 0.5092
    assert published(replace(marks, path=Path("NT/H3K4me1"))) is None
    assert published(replace(task, layout="fasta")) is None


def test_a_task_is_judged_as_its_suite_does():
    tables = replace(motif_task(), layout="tables")
    assert metric_of_suite(replace(tables, name="covid")) == "macro_f1"
    assert metric_of_suite(replace(tables, name="prom_core_tata")) is None
    assert metric_of_suite(replace(tables, name="mine")) is None
    of_folders = replace(motif_task(), layout="folders", name="human_enhancers_cohn")
    assert metric_of_suite(of_folders) == "accuracy"
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert "called as those of GUE or Genomic Benchmarks, theirs" in " ".join(
        parser.format_help().split()
    )


@pytest.mark.parametrize("name, layout, metric, said", [
    ("covid", "tables", "macro_f1", "macro-F1, as GUE scores its task of this name"),
    ("human_enhancers_cohn", "class_folders", "accuracy", "Accuracy, as Genomic Benchmarks scores"),
    ("covid", "tables", "mcc", ""),  # with --metric mcc
    ("prom_core_tata", "tables", "mcc", ""),  # as all classes
    ("mine", "tables", "accuracy", ""),
])  # fmt: skip
def test_why_a_suite_decides_the_metric_is_said(tmp_path, name, layout, metric, said):
    task = replace(motif_task(sizes=(8, 8, 40)), name=name, layout=layout)
    truth = task.splits["test"].targets
    ledger = Ledger(task, Rows(tmp_path), metric)
    ledger.add("model", 0, "key", np.stack([1.0 - truth, truth], axis=1), 1.0, {})
    lines = task_lines(table_of(task, ledger.rows, ["model"], [0]))
    found = [line for line in lines if "scores its task of this name" in line]
    assert len(found) == bool(said)
    assert not said or (found[0].startswith(f"- {said}") and "--metric" in found[0])
