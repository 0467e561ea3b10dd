"""Tables of results: who is compared with whom, over which sequences."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from small_tasks import motif_task

from spacescale.errors import UserError
from spacescale.tasks.duplicates import find_duplicates
from spacescale.tasks.scores import score
from spacescale.tasks.seeds import DrawnScores
from spacescale.tuning import rows as rows_module
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.rows import Row, Rows
from spacescale.tuning.seen import read_seen, seen_of
from spacescale.tuning.settings import TuningSettings
from spacescale.tuning.table import NOT_LOOKED_AT, describe, suite_lines, table_of, task_lines

TASK = motif_task(sizes=(8, 8, 200))
NUM = {split: len(found) for split, found in TASK.splits.items()}
TRUTH = TASK.splits["test"].targets


def answers(right, seed):
    """Of 200 sequences so many right, drawn anew with each seed."""
    random = np.random.default_rng(seed)
    wrong = random.permutation(200)[right:]
    decided = TRUTH.copy()
    decided[wrong] = 1 - decided[wrong]
    return np.stack([1 - decided, decided], axis=1).astype(np.float32)


def rows_with(folder, **right):
    rows = Rows(folder)
    for method, number in right.items():
        for seed in range(3):
            found = answers(number, seed)
            scores = score("classes", TRUTH, found)
            unique = score("classes", TRUTH[:150], found[:150])
            row = Row("motifs", method, seed, "k", "mcc", scores, unique, NUM, 150, 1.5)
            rows.add(row, found)
    return rows


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = rows_with(tmp_path, model=180)
    again = Rows(tmp_path)
    assert again.rows == rows.rows
    np.testing.assert_array_equal(again.answers(again.rows[1]), answers(180, 1))
    again.add(again.rows[1], answers(200, 0))
    assert len(Rows(tmp_path).rows) == 3
    assert Rows(tmp_path).find("model", 2, "k") and not Rows(tmp_path).find("model", 2, "other")


def test_a_row_that_is_stopped_halfway_has_no_answers_of_another(tmp_path, monkeypatch):
    rows_with(tmp_path, model=180)
    (old, *_), write = Rows(tmp_path).rows, rows_module.write_text

    def stop_after_answers(path, content):
        write(path, content)
        if path.suffix == ".npy":
            raise KeyboardInterrupt

    monkeypatch.setattr(rows_module, "write_text", stop_after_answers)
    with pytest.raises(KeyboardInterrupt):
        Rows(tmp_path).add(replace(old, key="other"), answers(200, 0))
    assert [row.seed for row in Rows(tmp_path).rows] == [1, 2]
    assert Rows(tmp_path).find("model", old.seed, "k") is None


def test_a_figure_that_is_not_defined_is_kept_as_such(tmp_path):
    row = Row("t", "m", 0, "k", "auroc", {"auroc": float("nan")}, {"auroc": 0.5}, {}, 1, 1.0)
    Rows(tmp_path).add(row, np.zeros((2, 1)))
    (read,) = Rows(tmp_path).rows
    assert np.isnan(read.scores["auroc"]) and "null" in (tmp_path / "rows.jsonl").read_text()


def test_rows_of_two_commands_do_not_replace_each_other(tmp_path):
    first, second = Rows(tmp_path), Rows(tmp_path)
    for rows, method in ((first, "one"), (second, "another"), (first, "third")):
        rows.add(Row("t", method, 0, "k", "mcc", {}, {}, {}, 1, 1.0), np.zeros((2, 1)))
    assert [row.method for row in Rows(tmp_path).rows] == ["one", "another", "third"]


@pytest.mark.parametrize(
    ("rate", "tried", "mode", "remark"),
    [
        (
            1e-3,
            ["0.0003", "0.001"],
            "full",
            "chose the largest learning rate of those tried, 0.001",
        ),
        (
            3e-4,
            ["0.0003", "0.001"],
            "full",
            "chose the smallest learning rate of those tried, 0.0003",
        ),
        (3e-4, ["0.0003", "0.003"], "head", "chose the smallest learning rate of those tried, 0.1"),
        (1e-3, ["0.0003", "0.001", "0.003"], "full", None),
        (1e-3, [], "full", "one learning rate, 0.001; none other was tried"),
    ],
)
def test_a_rate_at_the_edge_of_those_tried_is_said(tmp_path, rate, tried, mode, remark):
    rows = rows_with(tmp_path, model=180, k_mers=120)
    settings = {"rate": rate, "lr": rate, "head_lr": 0.1, "mode": mode, "strands": "one"}
    rows.rows[0] = replace(rows.rows[0], settings=settings | {"tried": dict.fromkeys(tried)})
    table = table_of(TASK, rows, ["model", "k_mers"], range(3))
    found = [line for line in task_lines(table) if "learning rate" in line]
    assert len(found) == (remark is not None)
    assert not remark or (remark in found[0] and found[0].startswith("- model: "))


@pytest.mark.parametrize("seeds, said", [
    ((1,), "k_mers: seed 1 of 3: one answer"),
    ((0, 2), "k_mers: seeds 0, 2 of 3: one answer"),
    ((0, 1, 2), "k_mers: one answer"),
])  # fmt: skip
def test_a_remark_names_the_seeds_that_it_is_of(tmp_path, seeds, said):
    rows = rows_with(tmp_path, model=180, k_mers=120)
    for at, row in enumerate(rows.rows):
        if row.method == "k_mers" and row.seed in seeds:
            rows.rows[at] = replace(row, remarks=["one answer", f"seed {row.seed}: its own"])
    lines = task_lines(table_of(TASK, rows, ["model", "k_mers"], range(3)))
    assert [line for line in lines if "one answer" in line] == [f"- {said}"]
    own = [line for line in lines if "its own" in line]
    assert own == [f"- k_mers: seed {seed}: its own" for seed in seeds]


@pytest.mark.parametrize("kept, chosen, said", [
    ({"species": "human"}, {}, "model: mean over positions of layer stem, species human, the"),
    ({}, {"species": "crow", "like": "finch"}, "stem, species crow begun as finch, the epoch best"),
    ({"pool": "cls"}, {}, "model: [CLS] of layer stem, the epoch best on validation (MCC)"),
])  # fmt: skip
def test_what_the_model_reads_out_is_said(tmp_path, kept, chosen, said):
    rows = rows_with(tmp_path, model=180, k_mers=120)
    settings = {"layer": "stem", "pool": "mean", "best_epoch": 3} | kept
    rows.rows[0] = replace(rows.rows[0], settings=settings)
    table = table_of(TASK, rows, ["model", "k_mers"], range(3), chosen=chosen)
    (line,) = [line for line in task_lines(table) if "of layer" in line]
    assert said in line
    (bare,) = [table_of(TASK, rows, ["k_mers", "model"], range(3), chosen=chosen)]
    assert not bare.of_model


TRAINED = asdict(TuningSettings(epochs=8, min_steps=300, lr=1e-3, strands="both")) | {
    "best_epoch": 3, "rate": 1e-3, "tried": {"0.0003": 0.1, "0.001": 0.2},
    "tried_strands": {"one": 0.2, "both": 0.3},
}  # fmt: skip
OURS = (
    "- ours: mean over positions, 8 epochs of batches of 32, 300 steps at least, rate 0.001 (of "
    "0.0003, 0.001), last layer 0.001, weight decay 0.01, frozen BatchNorm, both strands (either "
    "tried), shift 0 bp, no class weights, no early stopping"
)


@pytest.mark.parametrize("changes, words", [
    ({}, {}),
    ({"pool": "sum", "shift_bp": 3, "class_weights": True, "patience": 4, "live_batchnorm": True},
     {"mean over": "sum over", "frozen Batch": "live Batch", "shift 0": "shift 3",
      "no class": "class", "no early stopping": "early stopping after 4 epochs"}),
    ({"strands": "one", "tried_strands": {}, "tried": {}},
     {"both strands (either tried)": "one strand", " (of 0.0003, 0.001)": ""}),
    ({"mode": "head", "head_lr": 0.01},
     {"rate 0.001 (of 0.0003, 0.001), last layer 0.001": "last layer 0.01 (best of 2 rates)"}),
    ({"like": "finch"}, {"last layer 0.001": "last layer 0.001, new species 0.001"}),
    ({"like": "finch", "species_lr": 0.02},
     {"last layer 0.001": "last layer 0.001, new species 0.02"}),
    ({"vocabulary": "bpe", "pool": "cls"},
     {"mean over positions": "[CLS]", ", frozen BatchNorm": ""}),
])  # fmt: skip
def test_how_the_model_was_trained_is_one_line(tmp_path, changes, words):
    rows = rows_with(tmp_path, model=180, k_mers=120)
    rows.rows[0] = replace(rows.rows[0], settings=TRAINED | changes)
    expected = OURS
    for was, is_now in words.items():
        assert was in expected
        expected = expected.replace(was, is_now)
    lines = task_lines(table_of(TASK, rows, ["model", "k_mers"], range(3)))
    assert [line for line in lines if line.startswith("- ours")] == [expected]


def test_the_published_protocol_stands_by_the_published_value(tmp_path):
    task = replace(TASK, name="prom_core_tata", layout="tables")
    lines = task_lines(table_of(task, rows_with(tmp_path, model=180), ["model"], range(3)))
    at = next(i for i, line in enumerate(lines) if line.startswith("- published (GUE), mcc: "))
    assert lines[at + 1].startswith("- SPACE's protocol: all weights, sum over positions, live Ba")
    assert not any("protocol" in line for line in lines[:at])


def test_that_leakage_was_not_looked_at_is_said(tmp_path):
    rows, note = rows_with(tmp_path, model=180), f"- {NOT_LOOKED_AT}"
    assert note in task_lines(table_of(TASK, rows, ["model"], range(3)))
    path = report(tmp_path / "r.tsv", ["none"] * 200)
    seen = seen_of(TASK, read_seen(path), path)
    lines = task_lines(table_of(TASK, rows, ["model"], range(3), seen))
    assert note not in lines and f"- {seen.in_words()}" in lines


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"rows\.jsonl:1: not a row of results"):
        Rows(tmp_path)


def test_the_model_is_held_against_the_best_of_the_rest(tmp_path):
    rows = rows_with(tmp_path, model=180, good=176, poor=120)
    table = table_of(TASK, rows, ["model", "good", "poor"], range(3))
    assert table.best_other is not None and table.best_other.method == "good"
    model, good, poor = table.lines
    assert model.less is None
    assert good.less is not None and poor.less is not None
    assert good.less.value == pytest.approx(np.mean(model.scores) - np.mean(good.scores))
    assert good.less.interval.low < 0 < good.less.interval.high and good.less.p > 0.2
    assert poor.less.interval.low > 0.2 and poor.less.p < 0.01
    text = "\n".join(task_lines(table))
    assert "| good | 3 | " in text and "not seen" not in text
    assert "not distinguishable" in suite_lines([table])[-1]
    worse = table_of(TASK, rows, ["poor", "model"], range(3))
    assert suite_lines([worse])[-1].endswith("| worse |")


def test_a_difference_that_rests_on_copies_is_told_without_them(tmp_path):
    """The model knows what train holds, too, and guesses the rest as the other method does."""
    copies, test = 80, TASK.splits["test"]
    train = replace(TASK.splits["train"], codes=test.codes[:copies], names=test.names[:copies],
                    targets=TRUTH[:copies])  # fmt: skip
    task = replace(TASK, splits=TASK.splits | {"train": train})
    ledger = Ledger(task, Rows(tmp_path), "mcc")
    for seed in range(3):
        guessed = np.random.default_rng(seed).permutation(TRUTH)
        knowing = np.concatenate([TRUTH[:copies], guessed[copies:]])
        for method, decided in (("model", knowing), ("other", guessed)):
            ledger.add(method, seed, "k", np.eye(2, dtype=np.float32)[decided], 1.0, {})
    table = table_of(task, Rows(tmp_path), ["model", "other"], range(3))
    less, without = table.lines[1].less, table.lines[1].less_unique
    assert less is not None and less.value > 0.2 and less.p < 0.01
    assert without is not None and without.value == 0
    assert any(line.startswith("- model less, without copies: other +0.000 [")
               for line in task_lines(table))  # fmt: skip
    assert "| better; without copies not distinguishable (+0.000 [" in suite_lines([table])[-1]
    assert f"motifs: {copies} of 200 test sequences are in train, too" in describe(
        task, find_duplicates(task)
    )


def test_elements_in_another_orientation_are_copies():
    test, train = TASK.splits["test"], TASK.splits["train"]
    of_test = tuple(f"e{row}" for row in range(len(test)))
    of_train = tuple(f"e{row + 195}" for row in range(len(train)))
    splits = TASK.splits | {
        "test": replace(test, groups=of_test), "train": replace(train, groups=of_train),
    }  # fmt: skip
    task = replace(TASK, splits=splits)
    told = "motifs: 5 of 200 test sequences are in train, too, or their elements are"
    assert told in describe(task, find_duplicates(task))


def drawn(predictions):
    return DrawnScores.of("classes", TRUTH, predictions, "mcc")


def test_the_best_of_many_is_not_called_better_than_the_model_for_having_been_chosen(tmp_path):
    """p of "worse" counts once for each method that could have been the best."""
    rows = rows_with(tmp_path, model=160, good=168, fair=150, poor=120)
    one, three = (
        float(suite_lines([table_of(TASK, rows, ["model", *rest], range(3))])[-1].split(" | ")[-2])
        for rest in (["good"], ["good", "fair", "poor"])
    )
    assert 0.002 < one < 0.3 and three == pytest.approx(3 * one, abs=0.002)


def test_seeds_widen_the_interval():
    """Of two methods with the same mean that whose seeds differ is less certain."""
    alike = [answers(160, seed) for seed in range(4)]
    unlike = [answers(number, 5) for number in (100, 140, 200, 200)]
    narrow, wide = (drawn(of).interval() for of in (alike, unlike))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    one = drawn(alike).less(drawn(alike))
    assert one.value == 0 and one.interval.low < 0 < one.interval.high


def report(path, verdicts, task="motifs"):
    lines = ["task\tsplit\tsequence\tverdict", f"{task}\ttrain\tx\tsame"]
    names = TASK.splits["test"].names
    lines += [f"{task}\ttest\t{n}\t{v}" for n, v in zip(names, verdicts, strict=False)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_scores_without_what_pretraining_has_seen(tmp_path):
    path = report(tmp_path / "r.tsv", ["same"] * 3 + ["similar"] * 7 + ["none"] * 190)
    seen = seen_of(TASK, read_seen(path), path)
    assert seen.unseen.tolist() == list(range(10, 200))
    assert "seen 10 of 200 test sequences (5.0%): 3 the same, 7 similar" in seen.in_words()
    table = table_of(TASK, rows_with(tmp_path / "rows", model=180), ["model"], [0, 1], seen)
    expected = [score("classes", TRUTH[10:], answers(180, seed)[10:])["mcc"] for seed in (0, 1)]
    assert table.lines[0].unseen == pytest.approx(np.mean(expected))
    assert "not seen (190)" in "\n".join(task_lines(table))


def test_what_is_too_short_to_tell_counts_as_neither(tmp_path):
    path = report(tmp_path / "r.tsv", ["too short"] * 20 + ["same"] * 10 + ["none"] * 170)
    seen = seen_of(TASK, read_seen(path), path)
    assert seen.unseen.tolist() == list(range(30, 200)) and seen.share == 0.05
    assert seen.in_words().endswith("; 20 are too short to tell, and count as neither")


def test_what_validation_has_read_counts_as_neither(tmp_path):
    path = report(tmp_path / "r.tsv", ["validation"] * 20 + ["same"] * 10 + ["none"] * 170)
    seen = seen_of(TASK, read_seen(path), path)
    assert seen.unseen.tolist() == list(range(30, 200)) and seen.share == 0.05
    assert seen.in_words().endswith("; 20 are in windows that chose the checkpoint, and count as "
                                    "neither")  # fmt: skip


def test_sequences_of_one_name_are_told_apart_by_their_order(tmp_path):
    test = replace(TASK.splits["test"], names=["twin"] * 200)
    task = replace(TASK, splits=TASK.splits | {"test": test})
    path = tmp_path / "r.tsv"
    rows = [f"motifs\ttest\ttwin\t{'same' if row == 7 else 'none'}\n" for row in range(200)]
    path.write_text("task\tsplit\tsequence\tverdict\n" + "".join(rows))
    assert 7 not in seen_of(task, read_seen(path), path).unseen
    path.write_text(path.read_text() + rows[0])
    with pytest.raises(UserError, match="201 of 200 rows on motifs's test sequence twin"):
        seen_of(task, read_seen(path), path)


def test_a_report_of_other_sequences_is_refused(tmp_path):
    short = report(tmp_path / "short.tsv", ["none"] * 150)
    with pytest.raises(UserError, match="0 of 1 rows on motifs's test sequence made up:151"):
        seen_of(TASK, read_seen(short), short)
    other = tmp_path / "other.tsv"
    other.write_text("task\tsplit\n")
    with pytest.raises(UserError, match="no column 'sequence'"):
        read_seen(other)
