"""Which runs there are, what chooses their rates, and what a folder is for."""

import argparse
import subprocess
import sys
from unittest.mock import Mock

import pytest
from made_up_arms import SHAPE, leave_training, make_plan, options

from spacescale.ablation import slurm
from spacescale.ablation.command import add_options
from spacescale.ablation.command import run as ablate
from spacescale.ablation.jobs import shares
from spacescale.ablation.runs import environment, evaluate_command, train_command
from spacescale.ablation.settings import read_plan
from spacescale.ablation.work import Work
from spacescale.errors import UserError
from spacescale.pretrain import parse_arguments


def test_runs_of_a_plan(tmp_path):
    plan = make_plan(tmp_path, lr=[1e-3, 2e-3], seeds=2, null=True)
    trials = [(run.arm, run.rate, run.seed) for run in plan.all_trials()]
    assert trials == [
        ("full", 1e-3, 0), ("full", 2e-3, 0), ("dense_encoder", 1e-3, 0),
        ("dense_encoder", 2e-3, 0), ("null", 1e-3, 2), ("null", 2e-3, 2),
    ]  # fmt: skip
    slots = [(member.name, seed) for member, seed in plan.slots()]
    assert slots == [("full", 0), ("dense_encoder", 0), ("null", 2),
                     ("full", 1), ("dense_encoder", 1), ("null", 3)]  # fmt: skip
    full, dense, null = plan.members
    assert null.costed.arm.overrides == full.costed.arm.overrides
    with pytest.raises(UserError, match="full: no rate was trained to its end"):
        plan.compared(full, 0)
    for run, score in zip(plan.all_trials(), [0.2, 0.3, 0.5, 0.4, 0.1, 0.0], strict=True):
        leave_training(run, validation=score)
    assert [plan.rate_of(member)[0] for member in plan.members] == [2e-3, 1e-3, 1e-3]
    assert plan.rate_of(dense)[1] == {"0.001": 0.5, "0.002": 0.4}
    assert plan.compared(full, 1).folder == tmp_path / "out" / "full" / "lr0.002-seed1"


def test_without_rates_each_arm_has_three_to_choose_from(tmp_path):
    """Those around the preset's; where an override sets one, that alone."""
    plan = make_plan(tmp_path, arms=["full", "mine=optim.lr=3e-4"], lr=[], null=True)
    around = (6.67e-4, 2e-3, 6e-3)
    assert [member.rates for member in plan.members] == [around, (3e-4,), around]
    assert [run.folder.name for run in plan.all_trials()[:3]] == [
        "lr0.000667-seed0", "lr0.002-seed0", "lr0.006-seed0"
    ]  # fmt: skip
    plan = make_plan(tmp_path, lr=[], overrides=[*SHAPE, "optim.lr=1e-3"], out=tmp_path / "one")
    assert [member.rates for member in plan.members] == [(1e-3,), (1e-3,)]


def test_one_rate_needs_no_trial(tmp_path):
    plan = make_plan(tmp_path, lr=[3e-4])
    assert plan.all_trials() == []
    assert [plan.rate_of(member)[0] for member in plan.members] == [3e-4, 3e-4]


def test_a_loss_chooses_the_least(tmp_path):
    plan = make_plan(
        tmp_path, lr=[1e-3, 2e-3], arms=["full"], overrides=[*SHAPE, "run.best_metric=valid/loss"]
    )
    for run, score in zip(plan.all_trials(), [0.2, 0.3], strict=True):
        leave_training(run)
        with (run.folder / "metrics.jsonl").open("a") as log:
            log.write(f'{{"step": 41, "time": 1, "valid/loss": {score}}}\n')
    assert plan.rate_of(plan.members[0]) == (1e-3, {"0.001": 0.2, "0.002": 0.3})


def test_seconds_per_step_pass_over_pauses(tmp_path):
    plan = make_plan(tmp_path)
    run = plan.compared(plan.members[0], 0)
    leave_training(run, seconds=0.25)
    assert run.seconds_per_step() == pytest.approx(0.25)


def test_commands_are_those_of_a_user(tmp_path):
    plan = make_plan(tmp_path, arms=["dense_encoder"], both_strands=True, baseline="cnn", lr=[2e-3])
    run = plan.compared(plan.members[0], 1)
    words = train_command(run, plan.recipe, gpus=False)
    assert words[: words.index("--master_port")] == [
        sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "1",
    ]  # fmt: skip
    args = parse_arguments(words[words.index("--master_port") + 3 :])
    assert (args.output, args.resume, args.data) == (run.folder, "auto", [tmp_path / "data"])
    assert args.overrides == [*SHAPE, "model.species_num_experts=0", "optim.lr=0.002", "run.seed=1"]
    assert "--num_gpus" not in train_command(run, plan.recipe, gpus=True)  # CUDA_VISIBLE_DEVICES
    scored = evaluate_command(run, plan.recipe)
    assert scored[scored.index("--baseline-seed") :] == [
        "--baseline-seed", "1", "--both-strands", "--baseline", "cnn",
    ]  # fmt: skip


def test_commands_see_no_launcher_above(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MASTER_PORT", "29500")
    env = environment("2,3")
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert not {"RANK", "MASTER_PORT"} & env.keys()


def test_a_folder_is_for_one_ablation(tmp_path):
    make_plan(tmp_path, arms=["full", "mine=model.depth=1"])
    make_plan(tmp_path, arms=["full", "other=model.depth=3"], seeds=5, lr=[1e-3])
    with pytest.raises(UserError, match=r"arm mine of the runs there is .*depth=1.* is asked for"):
        make_plan(tmp_path, arms=["full", "mine=model.depth=3"])
    with pytest.raises(UserError, match="overrides of the runs there is"):
        make_plan(tmp_path, overrides=[*SHAPE, "model.dropout=0.2"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "--seeds 0: expected 1 or more"),
        ({"lr": [1e-3, -1.0]}, "--lr -1: expected a rate above 0"),
        ({"lr": [1e-3], "overrides": [*SHAPE, "optim.lr=1"]}, "for every arm: optim.lr=1 is what"),
        ({"arms": ["mine=run.seed=3"]}, "--arms mine: run.seed=3 is what --seeds sets"),
        ({"arms": ["mine=model.dim=49"]}, "model.dim=49 must be divisible"),
        ({"arms": ["mine=model.dimm=48"]}, "did you mean 'dim'"),
    ],
)
def test_refusals(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_plan(options(tmp_path, **changes))


def test_a_missing_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--deepspeed .*none.json: no such file"):
        read_plan(options(tmp_path, deepspeed=tmp_path / "none.json"))


def test_single_runs_are_counted(tmp_path, monkeypatch):
    plan = make_plan(tmp_path, lr=[1e-3, 2e-3], seeds=2)
    work, made = Work(plan, []), []
    monkeypatch.setattr(work.jobs, "do", lambda runs, do: made.extend(runs) or {})
    with pytest.raises(UserError, match="--only 9: there are runs 1 to 8"):
        work.make_one(9)
    work.make_one(3)
    for run in plan.all_trials():
        leave_training(run, validation=run.rate)
    work.make_one(8)
    assert [str(run) for run in made] == [
        "dense_encoder, rate 0.001, seed 0", "dense_encoder, rate 0.002, seed 1"
    ]  # fmt: skip


@pytest.mark.parametrize("alone", [{"only": 1}, {"tables": True}])
def test_what_runs_alone_has_the_whole_machine(tmp_path, monkeypatch, alone):
    """Whatever --jobs says, be it that of another machine."""
    monkeypatch.setattr("spacescale.ablation.work.Work", work := Mock())
    ablate(options(tmp_path, jobs=10_000, **alone))
    assert work.call_args.args[1] == shares(1)


@pytest.mark.parametrize("rates", [[1e-3], [1e-3, 2e-3]])
def test_the_script_for_slurm(tmp_path, rates):
    """Bash takes it; each array holds the runs of its step, and waits for the one before."""
    plan = make_plan(tmp_path, lr=rates, seeds=2)
    words = ["ablate", "--jobs", "8", "--arms", 'my=loss.species_weight={"a b": 1}', "--slurm"]
    text = slurm.script(plan, words)
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$*" >> {tmp_path}/told; wc -l < {tmp_path}/told\n'
    )
    sbatch.chmod(0o755)
    env = environment(None) | {slurm.OPTIONS: "--time=1-0"}
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, check=True)
    told = (tmp_path / "told").read_text().splitlines()
    assert all("--requeue --time=1-0" in line for line in told)
    command = (
        f"{sys.executable} -m spacescale.cli ablate --arms 'my=loss.species_weight={{\"a b\": 1}}'"
    )
    if len(rates) > 1:
        assert done.stdout == "submitted: rates 1, runs 2, tables 3\n"
        assert "--array=1-4 --wrap" in told[0]
        assert f"--array=5-8 --dependency=afterany:1 --wrap=exec {command} --only" in told[1]
    else:
        assert done.stdout == "submitted: runs 1, tables 2\n"
        assert "--array=1-4 --wrap" in told[0]
    assert told[-1].endswith(
        f"--dependency=afterany:{len(told) - 1} --wrap=exec {command} --tables"
    )
    assert told[-2].endswith("--only $SLURM_ARRAY_TASK_ID")


def test_options_exclude_each_other():
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert parser.parse_args(["--only", "3"]).only == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["--only", "3", "--tables"])
