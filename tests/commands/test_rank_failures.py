"""A rank that raises, dies or hangs ends all ranks soon, with one line that names it, and never
with status 0."""

import os
import re
import signal

import pytest
from commands import by_step
from running import FAULTY, SOON_S

from spacescale.checkpoint.found import find_checkpoint

pytestmark = pytest.mark.long


def check(run, codes, message):
    """All codes tell of a failure, and one line says which rank failed and why."""
    assert all(code != 0 for code in codes), codes
    assert len(run.errors()) == 1, run.text()
    assert re.search(message, run.errors()[0]), run.errors()
    reason = (run.output / "FAILED").read_text().splitlines()[0]
    assert run.errors()[0] == f"error on {reason}"
    end = run.last_run().end
    assert (end.cause, end.error) == ("failed", reason)


# ---- A rank raises ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "launcher",
    ["python", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepspeed", "torchrun"))],
)
def test_a_bug_on_one_rank_ends_all_with_one_traceback(start, launcher):
    run = start(launcher, script=FAULTY, FAULT="bug", FAULT_RANK=1)
    run.wait_for_fault()
    codes = run.wait_for_end()
    check(run, codes, r"rank 1: KeyError\('a bug'\)")
    assert run.text().count("Traceback (most") == 1 + (launcher == "torchrun")  # its own


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_damaged_data_on_one_rank_end_all_without_a_traceback(start, rank):
    run = start("deepspeed", script=FAULTY, FAULT="damage", FAULT_RANK=rank)
    run.wait_for_fault()
    check(run, run.wait_for_end(), f"rank {rank}: shard 7 is damaged")
    assert "Traceback" not in run.text()


def test_a_write_that_fails_on_one_rank_while_saving_ends_all(start):
    run = start("python", "run.save_every=3", script=FAULTY, FAULT="limit", FAULT_RANK=1)
    run.wait_for_fault()
    codes = run.wait_for_end(within=40)
    check(run, codes, "rank 1: .*")
    assert find_checkpoint(run.output) is None


# ---- A rank dies or hangs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "rank"),
    [
        ("deepspeed", 1),
        *(
            pytest.param(*p, marks=pytest.mark.slow)
            for p in (("deepspeed", 0), ("torchrun", 1), ("python", 0), ("python", 1))
        ),
    ],
)
def test_a_killed_rank_ends_all(start, launcher, rank):
    run = start(launcher)
    run.wait_for_steps()
    os.kill(run.ranks()[rank], signal.SIGKILL)
    check(run, run.wait_for_end(), f"rank {rank}: its process is gone")


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_their_reader_processes(start):
    run = start("deepspeed", "data.num_workers=2")
    run.wait_for_steps()
    os.kill(run.ranks()[1], signal.SIGKILL)
    codes = run.wait_for_end(within=40)  # readers look for their rank every 5 s
    check(run, codes, "rank 1: its process is gone")


def test_a_rank_that_stands_still_is_named_with_its_place(start):
    run = start("python", "run.hang_timeout_s=5", script=FAULTY, FAULT="sleep", FAULT_RANK=1)
    run.wait_for_fault()
    codes = run.wait_for_end(within=5 + SOON_S)
    check(
        run, codes, r"rank 1: has stood still for 5 s .* in train/trainer.py:\d+ \(_optimiser_step"
    )


@pytest.mark.parametrize(
    ("rank", "place"),
    [
        (0, "spacescale.parallel.comm.join"),
        pytest.param(1, "spacescale.parallel.comm.join", marks=pytest.mark.slow),
        pytest.param(1, "spacescale.train.run.build_engine", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_stopped_before_training_begins_is_named_and_killed(start, rank, place):
    fault = {"FAULT": "pause", "FAULT_PLACE": place, "FAULT_RANK": rank}
    run = start("python", "run.hang_timeout_s=5", script=FAULTY, **fault)
    run.wait_for_fault()
    pid = run.ranks()[rank]
    codes = run.wait_for_end(within=5 + SOON_S)
    assert codes[rank] == -signal.SIGKILL and codes[1 - rank] == 3
    (error,) = run.errors()
    assert error.startswith(f"error on rank {rank}: not heard of for 5 s (stopped, or cut off?); ")
    assert f"process {pid} on " in error
    assert (run.output / "FAILED").exists() == (place != "spacescale.parallel.comm.join")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_stopped_rank_is_named_and_the_launcher_ends_it(start, launcher, rank):
    run = start(launcher, "run.hang_timeout_s=5")
    run.wait_for_steps()
    os.kill(run.ranks()[rank], signal.SIGSTOP)
    pid = run.ranks()[rank]
    codes = run.wait_for_end(within=5 + SOON_S)
    check(run, codes, rf"rank {rank}: not heard of for 5 s \(.*\); process {pid} on ")


# ---- The launcher dies, or is told to stop -------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_ranks_save_and_leave_when_deepspeeds_launcher_is_ended(start, number):
    run = start("deepspeed")
    run.wait_for_steps()
    os.kill(run.launcher(), number)
    assert run.wait_for_end(within=40) != [0]
    assert run.text().count("SIGTERM: saved step") == 1
    assert run.last_run().end.cause == "stopped"
    assert not (run.output / "DONE").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_ranks_save_and_leave_when_the_deepspeed_command_is_ended(start, number):
    run = start("deepspeed")
    run.wait_for_steps()
    run.commands[0].send_signal(number)
    assert run.wait_for_end(within=40) == [-number]  # a busy machine saves slowly
    assert find_checkpoint(run.output) is not None
    assert run.text().count("SIGTERM: saved step") == 1
    assert "Traceback" not in run.text() and not run.errors()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun", "python"])
def test_ctrl_c_saves_and_leaves(start, launcher):
    run = start(launcher)
    run.wait_for_steps()
    for command in run.commands:
        os.killpg(command.pid, signal.SIGINT)
    codes = run.wait_for_end(within=40)
    assert codes == [0, 0] if launcher == "python" else codes[0] != 0
    assert find_checkpoint(run.output) is not None
    assert len(re.findall(r"SIG(INT|TERM): saved step", run.text())) == 1
    assert "pretrain.py" not in "".join(re.findall(r'File ".*', run.text()))


# ---- Killed while a checkpoint is written beside training ---------------------------------------


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(start):
    run = start("python", "run.save_every=2", script=FAULTY, FAULT="disk", FAULT_RANK=1)
    run.wait_until(lambda: 6 in steps_of(run))  # training went on beside the save of step 4
    run.end()
    before = steps_of(run)
    names = {path.name for path in (run.output / "checkpoints").glob("step-*")}
    assert names == {"step-00000002", "step-00000004.partial"}
    run = start("python", "run.save_every=2", "--resume", "must")
    run.wait_until(lambda: "speed/save_total_s" in steps_of(run).get(4, {}) and 6 in steps_of(run))
    run.end()
    after = steps_of(run)
    for step in (3, 4, 5, 6):
        assert after[step]["train/loss"] == before[step]["train/loss"], step
    assert after[4]["speed/save_stall_s"] < after[4]["speed/save_total_s"]


def steps_of(run):
    return by_step(run.output) if (run.output / "metrics.jsonl").exists() else {}
