"""`spacescale ablate` as a user gives it: killed midway, given again, and through to its tables."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import DEEPSPEED_JSON, REPO, TINY, environment, run

from spacescale.cli import build_parser, main, parse_arguments

PRESET, *SMALL = TINY
COMMAND = [sys.executable, "-m", "spacescale.cli", "ablate", PRESET]


def words(data, out, *more):
    return [*COMMAND, "--data", str(data), "--out", str(out), "--deepspeed", str(DEEPSPEED_JSON),
            *SMALL, *more]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs", "10000"], "error: --jobs 10000: expected 1 to"),
        (["--seeds", "0"], "error: --seeds 0: expected 1 or more"),
        (["--tables"], "full has no scored run to hold the others against"),
    ],
)
def test_refusals(data, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr("sys.argv", words(data, tmp_path / "out", *more)[2:])
    assert main() == 2
    assert message in capsys.readouterr().err


def test_overrides_may_stand_behind_options_with_several_words(monkeypatch):
    given = "ablate --arms full mine=model.dim=96 model.depth=2 --lr 1e-3 loss.mi_weight=0"
    monkeypatch.setattr("sys.argv", ["spacescale", *given.split()])
    args = parse_arguments(build_parser())
    assert args.arms == ["full", "mine=model.dim=96"] and args.lr == [1e-3]
    assert args.overrides == ["model.depth=2", "loss.mi_weight=0"]


def living(folder):
    """Commands of processes that have this folder in their words."""
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True).stdout
    lines = [line.split(maxsplit=1) for line in listed.splitlines()]
    return [args for stat, args in lines if str(folder) in args and not stat.startswith("Z")]


@pytest.mark.slow
def test_killed_midway_it_goes_on_to_its_tables(data, tmp_path):
    """One arm cannot be trained: it is named at the end, and hides no other."""
    out = tmp_path / "out"
    broken = "broken=optim.lr=1e30,run.max_nonfinite_steps=1"
    command = words(
        data, out, "optim.lr=2e-3", "--seeds=2", "--null", "--equal=flops", "--arms", "moe-dense",
        broken,
    )  # fmt: skip
    log = tmp_path / "first.txt"
    with log.open("w") as text:
        process = subprocess.Popen(
            command, cwd=REPO, env=environment(), stdout=text, stderr=text, start_new_session=True
        )
    first = out / "full" / "lr0.002-seed0"
    deadline = time.monotonic() + 200
    while not (first / "DONE").exists() or not (out / "dense_encoder").is_dir():
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=90) == 143
    assert not living(out)
    before = (first / "DONE").stat().st_mtime_ns, (first / "metrics.jsonl").read_bytes()

    done = run(*command, timeout=600)
    assert done.returncode == 2, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: 2 failed, the same command tries again: broken, rate 1e+30")
    assert "not finite" in last and "lr1e+30-seed1.log" in last
    assert before == ((first / "DONE").stat().st_mtime_ns, (first / "metrics.jsonl").read_bytes())
    found = json.loads((out / "results.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == ["full", "dense_encoder", "null"]
    assert found["arms"][1]["steps"] >= found["arms"][0]["steps"] == 6
    assert all(arm["seconds_per_step"] > 0 and len(arm["runs"]) == 2 for arm in found["arms"])
    assert {d["arm"] for d in found["differences"]} == {"dense_encoder", "null"}
    assert (out / "figures" / "tracks.png").stat().st_size > 1000
    again = run(*command, "--tables")
    assert again.stdout == done.stdout
