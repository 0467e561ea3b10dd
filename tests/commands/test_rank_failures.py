"""A rank that raises, dies or hangs ends all ranks soon, with one line that names it, and never
with status 0."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import (
    BIN,
    REPO,
    SCRIPT,
    arguments,
    deepspeed_command,
    environment,
)

from spacescale.checkpoint.found import find_checkpoint
from spacescale.parallel.comm import free_port

FAULTY = Path("tests/commands/faulty_pretrain.py")
ENDLESS = ["optim.max_steps=100000", "run.valid_every=100000", "run.save_every=100000"]
SOON_S = 15  # from the fault to the end of every rank; a hang is noticed 5 s later
START_S = 120


@dataclass
class Running:
    """A started run: its commands, and the files their output goes to."""

    output: Path
    commands: list[subprocess.Popen]
    texts: list[Path]

    def text(self):
        return "".join(path.read_text() for path in self.texts)

    def ranks(self):
        """Rank → pid, of the living; that of a reader process where its rank is gone."""
        found = {}
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                settings = (folder / "environ").read_bytes().decode().split("\0")
                env = dict(s.split("=", 1) for s in settings if "=" in s)
                names = {Path(word).name for word in words[1:3]}
                if str(self.output) in words and names & {SCRIPT.name, FAULTY.name}:
                    pid, place = int(folder.name), int(env["RANK"])
                    found[place] = min(pid, found.get(place, pid))
        return found

    def wait_for_steps(self, n=2):
        deadline = time.monotonic() + START_S
        log = self.output / "metrics.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= n):
            assert time.monotonic() < deadline, self.text()
            assert all(c.poll() is None for c in self.commands), self.text()
            time.sleep(0.1)

    def wait_for_fault(self):
        deadline = time.monotonic() + START_S
        while "here comes the fault" not in self.text():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def wait_for_end(self, within=SOON_S):
        """Exit codes once the commands and all ranks have ended; fails where one lives on."""
        start = time.monotonic()
        while self.ranks() or any(c.poll() is None for c in self.commands):
            took = time.monotonic() - start
            assert took < within, f"alive after {took:.0f} s: {self.ranks()}\n{self.text()}"
            time.sleep(0.2)
        print(f"all ended after {time.monotonic() - start:.1f} s")
        return [command.returncode for command in self.commands]

    def end(self):
        for pid in self.ranks().values():
            os.kill(pid, signal.SIGKILL)
        for command in self.commands:
            command.kill()
            command.wait()

    def errors(self):
        return [line for line in self.text().splitlines() if line.startswith("error")]


@pytest.fixture
def start(data, tmp_path):
    """Start the tiny run under "deepspeed", "torchrun" or "python" (two plain processes)."""
    started = []

    def start_run(launcher, *more, script=SCRIPT, folder=data, of_rank=lambda rank: [], **env):
        output = tmp_path / "run"
        rest = [str(part) for part in arguments(folder, output, *ENDLESS, *more)]
        if launcher == "deepspeed":
            command = deepspeed_command(*rest)
            commands = [[script if part == SCRIPT else part for part in command]]
        elif launcher == "torchrun":
            port = free_port()
            commands = [
                [BIN / "torchrun", "--nproc-per-node", 2, "--master-port", port, script, *rest]
            ]
        else:
            commands = [[sys.executable, script, *rest, *of_rank(rank)] for rank in range(2)]
            env |= {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        run = Running(output, [], [])
        started.append(run)
        for number, command in enumerate(commands):
            of_process = {"RANK": number, "LOCAL_RANK": number} if launcher == "python" else {}
            run.texts.append(tmp_path / f"{number}.txt")
            with run.texts[-1].open("w") as text:
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdout=text,
                    stderr=subprocess.STDOUT,
                    cwd=REPO,
                    env=environment(**env, **of_process),
                    start_new_session=True,
                )
            run.commands.append(process)
        return run

    yield start_run
    for run in started:
        run.end()


def check(run, codes, message):
    """All codes tell of a failure, and one line says which rank failed and why."""
    assert all(code != 0 for code in codes), codes
    assert len(run.errors()) == 1, run.text()
    assert re.search(message, run.errors()[0]), run.errors()
    reason = (run.output / "FAILED").read_text()
    assert run.errors()[0] == f"error on {reason.strip()}"


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


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_stopped_rank_is_named_and_the_launcher_ends_it(start, launcher, rank):
    run = start(launcher, "run.hang_timeout_s=5")
    run.wait_for_steps()
    os.kill(run.ranks()[rank], signal.SIGSTOP)
    codes = run.wait_for_end(within=60)  # the launchers wait 30 s before they kill
    check(run, codes, f"rank {rank}: not heard of for 5 s")


# ---- The launcher dies, or is told to stop -------------------------------------------------------


def launcher_of(run):
    """Pid of DeepSpeed's launcher, between the command and the ranks."""
    status = Path(f"/proc/{run.ranks()[0]}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


def test_ranks_die_with_a_killed_launcher(start):
    run = start("deepspeed")
    run.wait_for_steps()
    os.kill(launcher_of(run), signal.SIGKILL)
    run.wait_for_end()
    assert not (run.output / "DONE").exists()  # what to look at: deepspeed itself ends with 0


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
