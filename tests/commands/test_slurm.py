"""slurm/pretrain_8xA40.sh on a private one-node Slurm, with a stand-in for the training process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = "slurm/pretrain_8xA40.sh"
RANKS = 8
# As ds_configs/README.md recommends for the machine.
DEFAULTS = [
    *("-m", "spacescale.pretrain", "--deepspeed", "ds_configs/8xA40.json"),
    *("--preset", "space_large", "--resume", "auto", "parallel.ep_size=1"),
]

# Notes what it was started with and every signal it gets. The first time it waits to be stopped.
STAND_IN = """\
    #!{python}
    import json, os, signal, sys, time
    from pathlib import Path

    output = Path(sys.argv[sys.argv.index("--output") + 1])
    output.mkdir(parents=True, exist_ok=True)
    signals = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(signal.Signals(number).name))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    start, rank = int(os.environ.get("SLURM_RESTART_COUNT", 0)), os.environ["RANK"]
    note = {{name: os.environ[name] for name in names}}
    note.update(pid=os.getpid(), arguments=sys.argv[1:])
    (output / f"started-{{start}}-{{rank}}.json").write_text(json.dumps(note))
    if start == 0:
        while not signals:
            time.sleep(0.05)
        time.sleep(1)  # the checkpoint
        (output / f"signals-{{rank}}.json").write_text(json.dumps(signals))
        if rank == "0":
            (output / "REQUEUE").touch()
"""


class Job:
    """A submitted job whose ranks run the stand-in."""

    def __init__(self, slurm: dict[str, str], folder: Path, given: list[str]) -> None:
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/bin/activate").write_text(f"PATH={folder}/venv/bin:$PATH\n")
        python = folder / "venv/bin/python"
        python.write_text(dedent(STAND_IN).format(python=sys.executable))
        python.chmod(0o755)
        self.given = given
        self.log = folder / "log"
        self.slurm = {**slurm, "SPACESCALE_VENV": str(folder / "venv")}
        submit = ["sbatch", "--parsable", f"--output={self.log}", f"--chdir={folder}"]
        self.id = self.ask(*submit, SCRIPT, *given)
        named = f"runs/spacescale-pretrain-{self.id}"
        self.output = folder / (given[given.index("--output") + 1] if given else named)

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.slurm, check=True, text=True, stdout=subprocess.PIPE
        )
        return done.stdout.strip()

    def starts(self, number: int) -> list[dict]:
        paths = self.output.glob(f"started-{number}-*.json")
        return [json.loads(path.read_text() or "{}") for path in sorted(paths)]

    def signals(self) -> list[list[str]]:
        paths = self.output.glob("signals-*.json")
        return [json.loads(path.read_text()) for path in sorted(paths)]

    def state(self) -> dict[str, str]:
        words = self.ask("scontrol", "show", "job", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"{self.state()}\n{self.log.read_text()}"
            time.sleep(0.2)

    def wait_for_state(self, state: str) -> None:
        self.wait_for(lambda: self.state()["JobState"] == state)


@pytest.fixture
def running_job(slurm: dict[str, str], tmp_path: Path) -> Job:
    return started(slurm, tmp_path, ["--data", "mouse", "human", "--output", "run"])


def started(slurm: dict[str, str], folder: Path, given: list[str]) -> Job:
    job = Job(slurm, folder, given)
    job.wait_for(lambda: len(job.starts(0)) == RANKS and all(job.starts(0)))
    return job


def test_script_parses() -> None:
    subprocess.run(["bash", "-n", SCRIPT], cwd=ROOT, check=True)


def test_script_needs_an_output_folder() -> None:
    command = ["bash", SCRIPT, "--data", "human"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "SLURM_JOB_ID": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--output" in done.stderr


def test_script_is_for_sbatch() -> None:
    env = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
    done = subprocess.run(["bash", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sbatch" in done.stderr


def test_slurm_accepts_the_request(slurm: dict[str, str]) -> None:
    command = ["sbatch", "--test-only", SCRIPT]
    done = subprocess.run(command, cwd=ROOT, env=slurm, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "using 64 processors on nodes n1" in done.stderr


@pytest.mark.parametrize(
    ("send", "received"),
    [
        (("scancel", "--batch", "--signal=USR1"), "SIGUSR1"),  # the time limit is near
        (("scancel", "--signal=TERM"), "SIGTERM"),  # preemption: the ranks only
    ],
)
def test_stopped_job_goes_back_into_the_queue(
    running_job: Job, send: tuple[str, ...], received: str
) -> None:
    job = running_job
    (first,) = {start["MASTER_ADDR"] + ":" + start["MASTER_PORT"] for start in job.starts(0)}
    assert first == f"127.0.0.1:{20000 + int(job.id)}"
    assert [start["RANK"] for start in job.starts(0)] == [str(rank) for rank in range(RANKS)]
    assert [start["LOCAL_RANK"] for start in job.starts(0)] == [str(rank) for rank in range(RANKS)]
    assert {start["WORLD_SIZE"] for start in job.starts(0)} == {str(RANKS)}
    assert all(start["arguments"] == [*DEFAULTS, *job.given] for start in job.starts(0))

    job.ask(*send, job.id)
    job.wait_for(lambda: len(job.starts(1)) == RANKS)
    job.wait_for_state("COMPLETED")
    assert job.signals() == [[received]] * RANKS
    assert job.state()["Restarts"] == "1"
    assert not (job.output / "REQUEUE").exists()


def test_a_bare_job_trains_the_embedded_data_in_a_folder_of_its_name(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    job = started(slurm, tmp_path, [])
    (arguments,) = {tuple(start["arguments"]) for start in job.starts(0)}
    given = ("--preset", "space_demo", "--output", f"runs/spacescale-pretrain-{job.id}")
    assert arguments == (*DEFAULTS, *given)
    job.ask("scancel", job.id)
    job.wait_for_state("CANCELLED")


def test_cancelled_job_saves_and_stays_away(running_job: Job) -> None:
    job = running_job
    job.ask("scancel", job.id)
    job.wait_for(lambda: len(job.signals()) == RANKS)
    job.wait_for_state("CANCELLED")
    assert job.state()["Restarts"] == "0"
    assert job.signals() == [["SIGTERM"]] * RANKS


def test_dead_rank_fails_the_job(running_job: Job) -> None:
    job = running_job
    os.kill(job.starts(0)[3]["pid"], signal.SIGKILL)
    job.wait_for_state("FAILED")
    assert job.state()["Restarts"] == "0"
    assert len(job.signals()) == RANKS - 1
