"""The page of two vocabularies or one on tasks (benchmarks/genomics_fm_tasks.py)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_tasks import motif_task
from small_vocabularies import UNION

from spacescale.tuning.rows import Row, Rows
from spacescale.tuning.vocabulary_choice import Overlap

REPO = Path(__file__).parents[2]
SEEDS = [0, 1, 2]
SCORES = {"both as bpe": 0.5, "both as kmer": 0.7, "bpe alone": 0.4, "kmer alone": 0.65}


@pytest.fixture
def readings(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import genomics_fm_tasks

    monkeypatch.setattr(genomics_fm_tasks, "read_task", lambda _: motif_task(sizes=(20, 4, 4)))
    chosen = Overlap("motifs", "all", 20, 1280, 9, {"bpe": 4, "kmer": 5})
    monkeypatch.setattr(genomics_fm_tasks, "overlap", lambda task, vocabulary: chosen)
    return genomics_fm_tasks


def keep(out, without=""):
    rows = Rows(out / "motifs")
    for name, score in SCORES.items():
        for seed in SEEDS:
            method = f"{name} {seed}, full"
            if method != without:
                step = 0.02 if name == "both as bpe" else 0.01
                scores = {"mcc": score + step * seed}
                row = Row("motifs", method, 0, "key", "mcc", scores, scores, {}, 4, 1.0)
                rows.add(row, np.zeros((4, 2)))


def test_the_chosen_vocabulary_is_held_against_the_others(readings, tmp_path):
    keep(tmp_path)
    found = readings.found_of(Path("motifs"), tmp_path, SEEDS, UNION)
    assert found.chosen == "kmer" and found.of_both("kmer") == pytest.approx([0.7, 0.71, 0.72])
    lines = readings.table([found])
    assert "| motifs | mcc | 0.520 ± 0.020 | 0.710 ± 0.010 | 0.410 ± 0.010 |" in lines[2]
    less = {line.split(" | ")[0].strip("| "): line for line in lines[6:9]}
    assert "| +0.300 | [+0.27" in less["bpe alone"] and "| +0.050 |" in less["kmer alone"]
    assert "| +0.190 | [+0.16" in less["the other vocabulary"]
    assert lines[-3] == "The chosen vocabulary is better on 1 of 1 tasks."
    assert lines[-2:] == ["bpe always: on 0.", "kmer always: on 1."]


def test_what_is_missing_is_named(readings, tmp_path):
    keep(tmp_path, without="bpe alone 1, full")
    with pytest.raises(SystemExit, match="no row of bpe alone 1, full"):
        readings.found_of(Path("motifs"), tmp_path, SEEDS, UNION)


def test_rows_of_other_settings_are_refused(readings, tmp_path):
    keep(tmp_path)
    rows = Rows(tmp_path / "motifs")
    other = rows.rows[0]
    rows.add(replace(other, settings={"epochs": 3}), np.zeros((4, 2)))
    with pytest.raises(SystemExit, match="rows made with epochs 3 and None"):
        readings.found_of(Path("motifs"), tmp_path, SEEDS, UNION)
