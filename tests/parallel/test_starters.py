"""Who started a process, in small trees of shells that bear the launchers' names."""

import os
import shlex
import subprocess
import sys
import time

import pytest

from spacescale.parallel import starters
from spacescale.parallel.starters import Process

RANK = """
import signal, sys, time
from spacescale.parallel import starters
try:
    found = starters.find_starters()
except starters.StarterGone as gone:
    sys.exit(f"gone: {gone}")
if sys.argv[1:] == ["stays"]:
    starters.end_with_starters()
print(*(process.words()[3] for process in found), flush=True)
if sys.argv[1:] == ["stays"]:
    time.sleep(60)
"""
LAUNCH = "deepspeed.launcher.launch"
DEEPSPEED = {"CROSS_SIZE": "1"}


def shell(script, *words):
    """The command of a shell whose command line also holds these words; it waits for `script`."""
    return shlex.join(["bash", "-c", f"{script}\ntrue", *words])


def rank(*words):
    return shlex.join([sys.executable, "-c", RANK, *words])


def started(command, **changes):
    names = ("CROSS_SIZE", "TORCHELASTIC_RUN_ID")
    env = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.Popen(
        ["bash", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env | changes,
    )


def said(command, **changes):
    return started(command, **changes).communicate(timeout=60)[0].strip()


@pytest.mark.parametrize("command", ["deepspeed", "deepspeed.launcher.runner"])
def test_under_deepspeed_all_up_to_the_command_are_found(command):
    tree = shell(shell(rank(), LAUNCH), command)
    assert said(tree, **DEEPSPEED) == f"{LAUNCH} {command}"
    wrapped = shell(shell(shell(rank(), "wrapper"), LAUNCH), command)
    assert said(wrapped, **DEEPSPEED) == f"wrapper {LAUNCH} {command}"
    by_a_program = shell(shell(rank(), LAUNCH), "search.py")
    assert said(by_a_program, **DEEPSPEED) == f"{LAUNCH} search.py"


def test_a_command_that_ended_before_the_rank_looked_is_missed():
    tree = shell(shell("sleep 0.5; " + rank(), LAUNCH) + " &", "deepspeed")
    assert said(tree, **DEEPSPEED) == "gone: the command `deepspeed`"
    logged = shell(shell("sleep 0.5; " + rank(), LAUNCH, "--node_rank=0", "--log_level=info") + "&")
    assert said(logged, **DEEPSPEED) == "gone: the command `deepspeed`"


def test_a_launcher_that_ended_before_the_rank_looked_is_missed():
    tree = shell(shell(f"(sleep 0.5; {rank()}) &", LAUNCH) + "; sleep 1", "deepspeed")
    assert "gone: deepspeed's launcher" in said(tree, **DEEPSPEED)
    tree = shell(f"(sleep 0.5; {rank()}) &", "torchrun")
    assert said(tree, TORCHELASTIC_RUN_ID="1") == "gone: torchrun"


def test_a_launcher_started_by_hand_for_one_of_several_machines_needs_no_command():
    tree = shell(shell("sleep 0.5; " + rank(), LAUNCH, "--node_rank=1") + " &")
    assert said(tree, **DEEPSPEED) == LAUNCH


def test_under_torchrun_it_is_found_behind_a_wrapper():
    tree = shell(shell(rank(), "wrapper"), "torchrun")
    assert said(tree, TORCHELASTIC_RUN_ID="1") == "wrapper torchrun"


@pytest.mark.parametrize("target", ["deepspeed", LAUNCH])
def test_a_rank_gets_a_term_and_the_command_ends_when_one_is_killed(target):
    tree = shell(shell(rank("stays"), LAUNCH) + "\nsleep 30 > /dev/null 2>&1", "deepspeed")
    process = started(tree + "; echo status $?", **DEEPSPEED)
    assert process.stdout.readline() == f"{LAUNCH} deepspeed\n"
    subprocess.run(
        ["pkill", "-KILL", "-P", str(process.pid)]
        if target == "deepspeed"
        else ["bash", "-c", f"pkill -KILL -P $(pgrep -P {process.pid})"],
        check=True,
    )
    start = time.monotonic()
    rest = process.communicate(timeout=60)[0]  # the rank holds the pipe until it ends
    assert time.monotonic() - start < 30 and "status 0" not in rest


def test_a_process_is_told_from_a_later_one_with_its_pid():
    process = subprocess.Popen(["sleep", "60"])
    found = Process.of(process.pid)
    assert found.lives() and not Process(process.pid, "0").lives()
    process.kill()
    while found.lives():
        time.sleep(0.01)  # a zombie is as good as gone
    process.wait()
    assert Process.of(process.pid) is None


def test_a_launcher_that_is_just_ending_has_a_child_until_it_has_ended(monkeypatch):
    looks = []

    def stat(pid):
        looks.append(pid)
        parent = "77" if len(looks) < 20 else "1"
        fields = {os.getpid(): ["S", parent], 77: ["Z", "1"], 1: ["S", "0"]}.get(pid)
        return fields and [*fields, *map(str, range(2, 30))]

    monkeypatch.setattr(starters, "_stat", stat)
    assert [process.pid for process in starters._ancestors()] == [1]
