"""A curve over shares of the labels: each share chooses its vocabulary by what it is given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_encoders import encoder
from small_tasks import motif_task
from small_vocabularies import UNION

from spacescale.parallel.engine import init_distributed, resolve_deepspeed_config
from spacescale.tuning.fractions import part_of
from spacescale.tuning.pretrained import PretrainedEncoder
from spacescale.tuning.rows import Rows
from spacescale.tuning.run import Plan, TaskRun, methods
from spacescale.tuning.settings import TuningSettings
from spacescale.tuning.suite import DEEPSPEED
from spacescale.tuning.tuned_model import load_tuned
from spacescale.tuning.vocabulary_choice import overlap, shares_line

CPU = torch.device("cpu")
SEEDS, SHARES = (0, 1, 2), (25.0, 100.0)
# Of motif_task(); of all its sequences k-mers share more.
OF_A_QUARTER = {0: "bpe", 1: "bpe", 2: "kmer"}


def run_of(folder, task=None, wanted="auto", shares=SHARES):
    pretrained = PretrainedEncoder("tiny", encoder(), "digest", UNION, wanted)
    settings = TuningSettings(mode="head", epochs=1, batch_size=16, min_steps=0, metric="auroc")
    rates = (1e-3, 1e-2)
    plan = Plan(pretrained, settings, rates, ("one",), SEEDS, ("scratch",), shares)
    config = resolve_deepspeed_config(DEEPSPEED, "a test", 16)
    return TaskRun(task or motif_task(), plan, Rows(folder), config, CPU)


def test_a_share_knows_nothing_of_the_other_labels(tmp_path):
    task = motif_task()
    found = run_of(tmp_path).readings
    for seed in SEEDS:
        part = part_of(task, 25, seed)
        assert found[25, seed].found == overlap(part.task, UNION)
        assert found[25, seed].part == OF_A_QUARTER[seed]
        assert found[100, seed].found == overlap(task, UNION)
        train = task.splits["train"]
        others = np.setdiff1d(np.arange(len(train)), part.rows)
        codes = list(train.codes)
        for row in others:
            codes[row] = np.zeros_like(codes[row])
        changed = replace(task, splits=task.splits | {"train": replace(train, codes=codes)})
        assert run_of(tmp_path, changed).readings[25, seed].found == found[25, seed].found


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    init_distributed()
    folder = tmp_path_factory.mktemp("curve")
    run_of(folder).run()
    return Rows(folder)


def test_rows_of_a_share_are_read_with_its_vocabulary(rows):
    for name in ("tiny, head", "scratch"):
        of_quarter = {row.seed: row for row in rows.of(name, SEEDS, 25.0)}
        assert {s: row.settings["vocabulary"] for s, row in of_quarter.items()} == OF_A_QUARTER
        assert {row.settings["vocabulary"] for row in rows.of(name, SEEDS)} == {"kmer"}
        # A rate that was chosen for other tokens is none of theirs.
        assert all(of_quarter[seed].settings["tried"] for seed in SEEDS)
        assert of_quarter[0].settings["tried"] == of_quarter[1].settings["tried"]
        assert of_quarter[0].settings["tried"] != of_quarter[2].settings["tried"]


def test_kept_models_answer_as_their_rows(rows):
    test = motif_task().splits["test"].codes
    for row in (row for row in rows.rows if row.method == "tiny, head"):
        kept = load_tuned(rows.folder / "weights" / row.stem)
        assert kept.encoding.name == row.settings["vocabulary"]
        np.testing.assert_allclose(kept.answers(test), rows.answers(row), atol=1e-5)


def test_keys_hold_the_vocabulary(tmp_path):
    """Rows are found again by whoever asks for the vocabulary that was chosen for all of them."""
    keys = {}
    for wanted in ("auto", "bpe", "kmer"):
        run = run_of(tmp_path, wanted=wanted)
        method = methods(run.plan)[0]
        keys[wanted] = {at: run.ledger.key(run._facts(method, *at)) for at in run.readings}
    for at in ((25, 0), (25, 1)):
        assert keys["auto"][at] == keys["bpe"][at] != keys["kmer"][at]
    for seed in SEEDS:
        assert keys["auto"][100, seed] == keys["kmer"][100, seed]
    # The third reads k-mers at its own rate, and not at that of the first.
    assert len({keys[wanted][25, 2] for wanted in keys}) == 3


def test_what_was_chosen_is_said(tmp_path):
    line = (
        "read as the tokens that the sequences of each share choose: bpe with 25 % (seeds 0, 1); "
        "kmer with 25 % (seed 2), 100 % (seeds 0, 1, 2)"
    )
    assert run_of(tmp_path).task.notes == [line]
    assert run_of(tmp_path, wanted="kmer").task.notes == ["read as kmer tokens"]
    (whole,) = run_of(tmp_path, shares=(100.0,)).task.notes
    assert whole.startswith("read as kmer tokens: of the")
    assert shares_line({(1.0, 0): "kmer"}).endswith("choose: kmer with 1 % (seed 0)")
