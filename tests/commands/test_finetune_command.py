"""`spacescale finetune`, `suite` and `answer` as users call them."""

import argparse
import csv
import json
import re

import numpy as np
import pytest
import torch
from commands import REPO, SPACESCALE, deepspeed_launcher, run
from small_encoders import write_encoder

from spacescale.errors import UserError
from spacescale.finetune import add_options
from spacescale.planning.measure import processes_sharing
from spacescale.tasks.read_task import read_task
from spacescale.tuning.cost import tuning_cost
from spacescale.tuning.rows import Rows
from spacescale.tuning.run import TaskRun
from spacescale.tuning.suite import find_tasks, plan_of, read_task_of

BASES = "ACGT"
QUICK = ["--seeds", 2, "--epochs", 2, "--min-steps", 0, "--batch", 16, "--lr", 1e-3, 3e-3]


def write_task(folder, number=96, seed=0):
    """GUE's layout; half of the sequences of 40 bp hold a motif."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for split, size in (("train", number), ("dev", 32), ("test", 32)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sequence", "label"])
            for i in range(size):
                text = "".join(random.choice(list(BASES), 40))
                rows.writerow([text[:12] + "GATTACAGG" + text[21:] if i % 2 else text, i % 2])
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import sys

    sys.path += [str(REPO / "tests" / "model"), str(REPO / "tests" / "predict")]
    from small_models import write_export

    return write_export(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def tuned(weights, tmp_path_factory):
    """Where a task was learnt with everything beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    task = write_task(folder / "motifs")
    command = [SPACESCALE, "finetune", "--weights", weights, "--task", task, "--species", "finch"]
    done = run(*command, *QUICK, "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return command, folder, done


def test_the_table_holds_the_model_and_all_that_it_has_to_beat(tuned):
    _, folder, done = tuned
    methods = (
        "tiny, full",
        "majority",
        "length and GC",
        "k-mers",
        "CNN",
        "scratch",
        "random frozen",
    )
    table = (folder / "out" / "motifs" / "tiny_full.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0][2:] for line in lines[1:]] == [*methods]
    assert table.strip() in done.stdout
    rows = [json.loads(r) for r in (folder / "out" / "motifs" / "rows.jsonl").open()]
    with_seeds = {"tiny, full", "CNN", "scratch", "random frozen"}
    assert {r["method"] for r in rows if r["seed"] == 1} == with_seeds
    first = next(r for r in rows if (r["method"], r["seed"]) == ("tiny, full", 0))
    assert first["settings"]["tried"].keys() == {"0.001", "0.003"}
    assert first["settings"]["rate"] in (1e-3, 3e-3)
    assert first["num"] == {"train": 96, "valid": 32, "test": 32}


def test_the_same_command_makes_nothing_again_and_another_does(tuned):
    command, folder, _ = tuned
    path = folder / "out" / "motifs" / "rows.jsonl"
    before = path.read_text()
    again = run(*command, *QUICK, "--out", folder / "out")
    assert again.returncode == 0 and "seed 0" not in again.stderr
    assert path.read_text() == before


def test_a_kept_model_answers_as_it_did(tuned, tmp_path):
    _, folder, _ = tuned
    out = tmp_path / "answers.tsv"
    task = folder / "out" / "motifs"
    done = run(
        *(SPACESCALE, "answer", "--weights", task / "weights" / "tiny_full-1"),
        *("--sequences", folder / "motifs" / "test.csv", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader(out.open(), delimiter="\t"))
    assert rows[0] == ["name", "0", "1"]
    found = np.array([row[1:] for row in rows[1:]], dtype=np.float32)
    np.testing.assert_allclose(found, np.load(task / "answers" / "tiny_full-1.npy"), atol=1e-5)


REFUSED = [
    ([], "knows finch, perch: say which one the task is of"),
    (["--species", "finhc"], "no species 'finhc' (did you mean 'finch'?)"),
    (["--species", "finch", "--metric", "f1"], "--metric f1: there are mcc, macro_f1,"),
    (["--species", "finch", "--layer", "top"], "--layer top: there are stem,"),
    (["--species", "finch", "--pool", "cls"], "--pool cls: there are mean, sum, max"),
    (["--species", "finch", "--vocabulary", "kmer"], "reads bases, not tokens"),
    (["--species", "finch", "--beside", "luck"], "--beside luck: there are majority,"),
    (["--species", "finch", "--seeds", "0"], "--seeds 0: at least one"),
    (["--species", "finch", "--mode", "head", "--live-batchnorm"], "need mode full, not head"),
    (["--species", "crow", "--like", "finch", "--mode", "head"], "--mode head learns nothing of"),
    (["--species", "perch", "--like", "finch"], "--like finch changes nothing: "),
    (["--like", "finch"], "--like finch is for a --species that they do not know: "),
    (["--species", "finch", "--mode", "lora", "--layer", "stem"], "--layer stem: --mode lora"),
]


@pytest.mark.parametrize("options, message", REFUSED)
def test_options_that_cannot_be_are_refused(options, message, weights):
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(["--weights", str(weights), "--task", "anywhere", *options])
    with pytest.raises(UserError, match=re.escape(message)):
        plan_of(args)


def test_what_no_memory_holds_is_refused_with_what_would_fit(weights, tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    add_options(parser)
    words = ["--weights", str(weights), "--task", "x", "--species", "finch", "--batch", "64"]
    plan = plan_of(parser.parse_args(words))
    task = read_task(write_task(tmp_path / "motifs", 32))
    run = TaskRun(task, plan, Rows(tmp_path), {}, torch.device("cpu"))
    run.require_memory()
    monkeypatch.setattr("spacescale.tuning.run.memory_bytes", lambda device: 4 * 2**20)
    message = r"train\.csv:2: 64 sequences of 40 bp a step need .*Take --batch \d+"
    with pytest.raises(UserError, match=message):
        run.require_memory()
    config = plan.pretrained.space.config
    enough = tuning_cost(config, "full", 16, 1, 8, 1, "fp32", False).total
    monkeypatch.setattr("spacescale.tuning.run.memory_bytes", lambda device: enough)
    message = "Take sequences of 16 bp at most with --batch 1, or --mode lora or head, and leave"
    with pytest.raises(UserError, match=message):
        run.require_memory()


@pytest.mark.parametrize("variable", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_processes_share_a_machine_and_the_longest_sequence_is_named(
    variable, weights, tmp_path, monkeypatch
):
    parser = argparse.ArgumentParser()
    add_options(parser)
    words = ["--weights", str(weights), "--task", "x", "--species", "finch", "--batch", "64"]
    plan = plan_of(parser.parse_args(words))
    folder = write_task(tmp_path / "motifs", 32)
    with (folder / "dev.csv").open("a") as file:
        file.write(f"{'ACGTAG' * 8},1\n")
    run = TaskRun(read_task(folder), plan, Rows(tmp_path), {}, torch.device("cpu"))
    enough = plan.pretrained.cost("full", 48, 64, 8, 1, False).total
    monkeypatch.setattr("spacescale.tuning.run.memory_bytes", lambda device: enough)
    run.require_memory()
    monkeypatch.setenv(variable, "2")
    with pytest.raises(UserError, match=r"motifs/dev\.csv:34: 64 sequences of 48 bp a step"):
        run.require_memory()
    assert [processes_sharing(torch.device(name)) for name in ("cpu", "cuda")] == [2, 1]


def test_a_species_folder_is_no_task(weights, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(["--weights", str(weights), "--task", str(tmp_path)])
    with pytest.raises(UserError, match=r"is a species folder: .*pretrain.py --init .*--only-new"):
        read_task_of(args.task, args)


@pytest.mark.long
def test_a_task_that_is_none_leaves_nothing(weights, tmp_path):
    (tmp_path / "task").mkdir()
    done = run(
        *(SPACESCALE, "finetune", "--weights", weights, "--species", "finch"),
        *("--task", tmp_path / "task", "--out", tmp_path / "out"),
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'task'} holds no task: expected {{train,dev,test}}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("of", ["profiles", "tokens"])
def test_two_processes_learn_what_one_does(of, weights, tmp_path):
    """The gradient is that of the whole batch, also where the shares are uneven.

    Of one epoch: which of several is kept may hang on the last digits.
    """
    task = write_task(tmp_path / "motifs")
    if of == "profiles":
        common, apart = ["--weights", weights, "--species", "finch"], 2e-3
    else:  # with a head without dropout, which would be another one in each process
        common, apart = ["--weights", write_encoder(tmp_path / "tiny"), "--pool", "mean"], 1e-5
    common += ["--task", task, "--seeds", 1, "--beside", "--epochs", 1, "--batch", 15]
    common += ["--lr", 3e-3, "--patience", 0, "--min-steps", 0]
    scores = []
    for number in (1, 2):
        out = tmp_path / f"{number}"
        launch = [*deepspeed_launcher(number), "spacescale/finetune.py"]
        done = run(*launch, *common, "--out", out)
        assert done.returncode == 0, done.stderr
        scores.append(np.load(out / "motifs" / "answers" / "tiny_full-0.npy"))
    np.testing.assert_allclose(scores[1], scores[0], atol=apart)


@pytest.mark.slow
def test_a_suite_goes_on_after_a_stop(weights, tmp_path):
    for name in ("one", "two"):
        write_task(tmp_path / "suite" / name, seed=len(name))
    command = [SPACESCALE, "suite", tmp_path / "suite", "--weights", weights, "--species", "finch"]
    command += [*QUICK, "--beside", "k-mers", "--out", tmp_path / "out"]
    assert run(*command, "--tasks", "one").returncode == 0
    kept = (tmp_path / "out" / "one" / "rows.jsonl").read_text()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "one" / "rows.jsonl").read_text() == kept
    assert "| one | MCC |" in done.stdout and "| two | MCC |" in done.stdout


def rows_of(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").open()]


@pytest.mark.long
def test_another_species_shape_or_lost_file_makes_new_rows(weights, tmp_path):
    """What a row depends on is in its key; what it needs beside it is looked for."""
    task = write_task(tmp_path / "motifs", 32)
    words = [SPACESCALE, "finetune", "--task", task, "--out", tmp_path / "out", "--seeds", 1]
    words += ["--epochs", 1, "--min-steps", 0, "--beside", "random frozen", "--weights", weights]
    made = []
    for species in ("finch", "perch", "perch"):
        if len(made) == 2:
            (tmp_path / "out" / "motifs" / "answers" / "tiny_full-0.npy").unlink()
        done = run(*words, "--species", species)
        assert done.returncode == 0, done.stderr
        made.append(sum("seed 0:" in line for line in done.stderr.splitlines()))
    assert made == [2, 2, 1]
    config = json.loads((tmp_path / "out/motifs/weights/tiny_full-0/config.json").read_text())
    assert config["species"] == "perch"


@pytest.mark.long
def test_a_rate_that_diverges_is_passed_over(weights, tmp_path):
    task = write_task(tmp_path / "motifs", 32)
    words = ["--weights", weights, "--task", task, "--species", "finch", "--seeds", 1, "--beside"]
    words += ["--epochs", 2, "--min-steps", 0, "--out", tmp_path / "out"]
    done = run(SPACESCALE, "finetune", *words, "--lr", 1e-3, 1e30)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(tmp_path / "out" / "motifs")
    assert row["settings"]["tried"]["1e+30"] is None and row["settings"]["rate"] == 1e-3
    worst = run(SPACESCALE, "finetune", *words, "--lr", 1e30)
    assert worst.returncode == 2 and "take a lower learning rate" in worst.stderr


def test_tasks_of_one_name_are_called_by_their_path(tmp_path):
    for name in ("a/same", "b/same", "b/other"):
        write_task(tmp_path / name, 4)
    assert sorted(find_tasks(tmp_path, None)) == ["a_same", "b_same", "other"]
    assert sorted(find_tasks(tmp_path, ["*same"])) == ["a_same", "b_same"]
    with pytest.raises(UserError, match="no task in it of none"):
        find_tasks(tmp_path, ["none"])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--shift", "40"], "moved by 40 bp, nothing is left of a sequence of 40 bp"),
        (["--class-weights", "--kind", "values"], "class weights need classes"),
        (["--batch", "31"], "a batch has 31 sequences; 33 processes need as many"),
        (["--batch", "64"], "the training split has 32 sequences; 33 processes need as many"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(
    options, message, weights, tmp_path, monkeypatch
):
    if "--batch" in options:
        monkeypatch.setattr("spacescale.parallel.comm.world_size", lambda: 33)
    parser = argparse.ArgumentParser()
    add_options(parser)
    words = ["--weights", str(weights), "--task", "x", "--species", "finch", *options]
    args = parser.parse_args(words)
    task = read_task_of(write_task(tmp_path / "motifs", 32), args)
    run = TaskRun(task, plan_of(args), Rows(tmp_path), {}, torch.device("cpu"))
    with pytest.raises(UserError, match=message):
        run.require_sense()


@pytest.mark.slow
def test_two_processes_share_batches_of_several_lengths(weights, tmp_path):
    """BatchNorm of fresh weights exchanges sums: both must have as many groups of a batch."""
    folder, random = tmp_path / "mixed", np.random.default_rng(0)
    folder.mkdir()
    for split, size in (("train", 64), ("dev", 16), ("test", 16)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sequence", "label"])
            for i in range(size):
                rows.writerow(["".join(random.choice(list(BASES), random.integers(5, 60))), i % 2])
    words = ["--weights", weights, "--task", folder, "--species", "finch", "--seeds", 1]
    words += ["--epochs", 3, "--min-steps", 0, "--batch", 15, "--beside", "scratch"]
    found = []
    for number in (1, 2):
        launch = [*deepspeed_launcher(number), "spacescale/finetune.py"]
        done = run(*launch, *words, "--out", tmp_path / f"{number}", timeout=200)
        assert done.returncode == 0, done.stderr
        found.append(np.load(tmp_path / f"{number}" / "mixed" / "answers" / "scratch-0.npy"))
    assert np.isfinite(found).all()
