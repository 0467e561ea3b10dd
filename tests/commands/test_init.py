"""`pretrain.py --init`: a run that begins with the weights of another."""

import json
import sys

import pytest
from commands import REPO, SCRIPT, arguments, run, run_here

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.identity import digest_of_weights
from spacescale.pretrain import parse_arguments


def begin(data, output, weights, *more):
    return run(sys.executable, SCRIPT, *words(data, output, weights, *more))


def words(data, output, weights, *more):
    return [*arguments(data, output, *more), "--init", weights]


def first_loss(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return next(row["train/loss"] for row in map(json.loads, lines) if row["step"] == 1)


@pytest.mark.long
def test_a_run_begins_with_weights_of_another(alone, data, tmp_path):
    output = tmp_path / "run"
    more = ["optim.max_steps=2", "optim.warmup_steps=1", "run.valid_every=2", "run.save_every=2"]
    done = begin(data, output, alone[0], *more)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert f"weights of {alone[0]}" in said and "left over: nothing" in said
    assert first_loss(output) < first_loss(alone[0])  # of the same windows
    again = begin(data, output, alone[0], *more, "optim.max_steps=3", "--resume", "auto")
    assert again.returncode == 0, again.stderr
    assert "not from the weights of --init" in again.stdout + again.stderr
    before = layout.read_state(find_best(alone[0]))
    for step in (2, 3):  # and it remembers them
        kept = layout.read_state(layout.checkpoints_folder(output) / layout.step_name(step))
        began = kept["began_with"]
        assert (began["path"], began["digest"]) == (str(alone[0]), digest_of_weights(alone[0]))
        assert began["data_manifests"] == before["data_manifests"]
        assert (began["step"], began["began_with"]) == (before["step"], None)


def test_weights_of_another_shape_are_refused_and_nothing_is_left(alone, data, tmp_path):
    changed = words(data, tmp_path / "run", alone[0], "model.dim=72", "model.dim_divisible_by=8")
    refused = run_here(REPO / SCRIPT, *changed)
    assert refused.returncode == 2
    assert "only models of one shape can start from each other" in refused.stderr
    nowhere = run_here(REPO / SCRIPT, *words(data, tmp_path / "run", tmp_path / "nowhere"))
    assert nowhere.returncode == 2 and "neither a run folder, a checkpoint nor" in nowhere.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--only-new"], " already, which optim.only_new (--only-new) leaves as it is; give data"),
        (["--freeze", "stem", "trunk"], "optim.freeze (--freeze): 'trunk' is no parameter's name"),
        (["--freeze", "*"], "optim.freeze=['*']: nothing is left to train"),
        (["--own-experts", "2"], "--own-experts 2: "),
        (["--like", "finhc"], "--like finhc (did you mean 'finch'?): "),
    ],
)
def test_what_cannot_be_frozen_or_added_is_refused_and_nothing_is_left(
    alone, data, tmp_path, more, said
):
    refused = run_here(REPO / SCRIPT, *words(data, tmp_path / "run", alone[0]), *more)
    assert refused.returncode == 2
    assert said in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_is_frozen_by_arguments_is_configuration():
    words = ["--deepspeed", "x.json", "--freeze", "stem", "*.router", "--init", "w", "--only-new"]
    more = ["--like", "finch", "--own-experts", "2"]
    found = parse_arguments([*words, "optim.lr=1e-3", *more])
    assert found.overrides == [
        "optim.lr=1e-3",
        'optim.freeze=["stem", "*.router"]',
        "optim.only_new=true",
    ]
    assert (str(found.init), found.like, found.own_experts) == ("w", "finch", 2)
