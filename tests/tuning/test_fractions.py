"""Shares of the training labels: how they are drawn, told apart, and trained by the command."""

import csv
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from commands import SPACESCALE, run
from small_encoders import write_encoder
from small_tasks import motif_task

from spacescale.errors import UserError
from spacescale.genome.dna import decode
from spacescale.tasks.task import Task
from spacescale.tuning.fractions import WHOLE, parse_fractions, part_of
from spacescale.tuning.rows import Row, Rows, stem_of

FRACTIONS = (1, 3, 10, 30, 100)


def with_targets(task: Task, targets) -> Task:
    train = replace(task.splits["train"], targets=targets)
    return replace(task, splits=task.splits | {"train": train})


def test_smaller_shares_are_contained_in_larger_ones_with_all_classes():
    rare = np.zeros(200, dtype=np.int64)
    rare[:40], rare[40:43] = 1, 2
    task = with_targets(motif_task(sizes=(200, 8, 8)), rare)
    for seed in range(3):
        parts = [part_of(task, fraction, seed) for fraction in FRACTIONS]
        for smaller, larger in pairwise(parts):
            assert set(smaller.rows) < set(larger.rows)
        counts = [np.bincount(part.task.splits["train"].targets).tolist() for part in parts]
        assert counts == [[2, 1, 1], [5, 1, 1], [16, 4, 1], [47, 12, 1], [157, 40, 3]]
        for part in parts:
            train = part.task.splits["train"]
            assert train.names == [task.splits["train"].names[row] for row in part.rows]
            assert part.task.splits["test"] is task.splits["test"]
    first, second = (part_of(task, 10, seed).rows for seed in (0, 1))
    assert first.tolist() != second.tolist()


def test_a_share_of_which_nothing_is_known_is_refused():
    labels = np.full((50, 2), np.nan, dtype=np.float32)
    labels[:, 0], labels[7, 1] = 1, 0
    task = with_targets(motif_task("labels", (50, 8, 8)), labels)
    with pytest.raises(UserError, match=r"motifs: of 'none' nothing is known in the 5 training"):
        part_of(task, 10, 0)
    assert len(part_of(task, WHOLE, 0).rows) == 50
    labels[:, 1] = np.nan  # as in the whole
    assert len(part_of(task, 10, 0).rows) == 5


def test_percentages_are_read():
    assert parse_fractions("100,1,3,10,3") == (1, 3, 10, 100)
    assert parse_fractions(None) == parse_fractions("100") == (WHOLE,)
    for text in ("", "0", "1,101", "ten", "1;3", "nan", "1,nan,2", "nan,2,3"):
        with pytest.raises(UserError, match=f"--fractions {text}: expected percentages"):
            parse_fractions(text)


def test_rows_of_shares_stand_beside_those_of_the_whole(tmp_path):
    rows, task = Rows(tmp_path), motif_task(sizes=(40, 8, 8))
    parts = [part_of(task, fraction, 0) for fraction in (2.5, 100)]
    assert [part.facts for part in parts] == [{"fraction": 2.5}, {}]
    for part in parts:
        scores = {"mcc": part.fraction}
        row = Row("motifs", "tiny, full", 0, "key", "mcc", scores, scores, {}, 8, 1.0,
                  fraction=part.fraction)  # fmt: skip
        rows.add(row, np.full((8, 2), part.fraction))
    again = Rows(tmp_path)
    assert again.rows == rows.rows
    assert [again.answers(row)[0, 0] for row in again.rows] == [2.5, 100]
    assert [row.fraction for row in again.of("tiny, full", [0], 2.5)] == [2.5]
    assert [row.fraction for row in again.of("tiny, full", [0])] == [100]
    assert [row.stem for row in again.rows] == ["tiny_full-0-2.5percent", "tiny_full-0"]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert ["fraction" in json.loads(line) for line in lines] == [True, False]  # as it always was


def write_task(folder):
    folder.mkdir()
    task = motif_task(sizes=(64, 24, 24), low=30, high=40)
    for split, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        found = task.splits[split]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sequence", "label"])
            rows.writerows(zip(map(decode, found.codes), found.targets.tolist(), strict=True))
    return folder


@pytest.mark.long
def test_the_command_draws_the_curve_and_goes_on_after_a_stop(tmp_path):
    weights, task = write_encoder(tmp_path / "tiny"), write_task(tmp_path / "motifs")
    command = [SPACESCALE, "finetune", "--weights", weights, "--task", task, "--epochs", 1]
    command += ["--fractions", "25,100", "--seeds", 2, "--batch", 8, "--lr", 1e-3, "--min-steps", 0]
    command += ["--out", tmp_path / "out", "--beside", "majority", "random frozen"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "choose: bpe with 25 % (seeds 0, 1), 100 % (seeds 0, 1)" in done.stderr
    assert "### motifs: MCC by share of the training labels" in done.stdout
    assert "| | 25 % (16) | 100 % (64) |" in done.stdout
    assert "### motifs, 25 % of the training labels" in done.stdout
    folder = tmp_path / "out/motifs"
    assert (folder / "tiny_full.png").stat().st_size > 10_000
    assert "](tiny_full.png)" in (folder / "tiny_full.md").read_text()
    rows = Rows(folder).rows
    seeds = {(row.method, row.fraction, row.seed) for row in rows}
    assert len(seeds) == len(rows) == 2 * 4 + 3  # with all labels majority has no seed
    first = rows[-8]
    assert (first.method, first.num["train"], first.fraction) == ("tiny, full", 16, 25)
    assert first.settings["vocabulary"] == "bpe" and first.settings["fraction"] == 25
    assert (folder / "weights" / stem_of("tiny, full", 1, 25.0) / "vocabulary").is_dir()

    path, answers = folder / "rows.jsonl", Rows(folder).answers(rows[-1])
    before = path.read_text().splitlines(keepends=True)
    path.write_text("".join(before[:-2]))
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert sum(" seed " in line for line in again.stderr.splitlines()) == 2
    after = path.read_text().splitlines(keepends=True)
    assert after[:-2] == before[:-2]
    assert [row.key for row in Rows(folder).rows] == [row.key for row in rows]
    np.testing.assert_allclose(Rows(folder).answers(rows[-1]), answers, atol=1e-6)
