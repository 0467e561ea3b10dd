"""A launcher that is killed, at any moment, leaves no process behind."""

import contextlib
import os
import signal
import time

import pytest

pytestmark = pytest.mark.long

NUM_MOMENTS = 20
ENDED_S = 60  # what it takes on a busy machine: DeepSpeed's launcher first has to start


def kill(run, target):
    """Kill the command or DeepSpeed's launcher, as soon as there is one; whether ranks lived."""
    if target == "launch":
        run.wait_until(lambda: run.launcher() is not None)
    pid = run.launcher() if target == "launch" else run.commands[0].pid
    ranks_lived = bool(run.ranks())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return ranks_lived


def test_the_command_is_killed_before_the_ranks_begin(start):
    run = start("deepspeed")
    run.wait_until(lambda: run.launcher() is not None)
    kill(run, "command")
    assert run.wait_for_end(ENDED_S) == [-signal.SIGKILL]
    assert "the command `deepspeed` that started it is gone" in run.text()
    assert not run.output.exists()


@pytest.mark.parametrize(("launcher", "target"), [("deepspeed", "launch"), ("torchrun", "command")])
def test_a_launcher_is_killed_when_the_first_rank_begins(start, launcher, target):
    run = start(launcher)
    run.wait_until(run.ranks)
    kill(run, target)
    run.wait_for_end(ENDED_S)
    assert not run.output.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "target"),
    [("deepspeed", "command"), ("deepspeed", "launch"), ("torchrun", "command")],
)
def test_launchers_are_killed_at_moments_spread_over_start_up_and_training(start, launcher, target):
    run = start(launcher)
    began = time.monotonic()
    run.wait_for_steps()
    whole = (time.monotonic() - began) * 1.25
    run.end()
    took, successes = [], 0
    for moment in range(NUM_MOMENTS):
        run = start(launcher, name=f"moment-{moment}")
        time.sleep(whole * moment / NUM_MOMENTS)
        ranks_lived = kill(run, target)
        was_training = (run.output / "metrics.jsonl").exists()
        at = time.monotonic()
        (code,) = run.wait_for_end(ENDED_S)
        took.append(time.monotonic() - at)
        print(
            f"{launcher}, {target}: killed at {whole * moment / NUM_MOMENTS:.1f} s "
            f"({'training' if was_training else 'ranks live' if ranks_lived else 'no rank yet'}): "
            f"all gone after {took[-1]:.1f} s, status {code}"
        )
        successes += code == 0
        # DeepSpeed's command calls a killed launcher a success where no rank can gainsay it.
        assert code != 0 or not was_training, run.text()
    print(f"{launcher}, {target}: longest {max(took):.1f} s, status 0 {successes} times")
