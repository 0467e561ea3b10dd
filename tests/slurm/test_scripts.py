"""slurm/pretrain_8xA40.sh on a private Slurm, with a stand-in for the training process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from slurm_jobs import Job, make_project_with_stand_in

pytestmark = pytest.mark.long

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
    import json, os, signal, sys, time
    from pathlib import Path

    output = Path(sys.argv[sys.argv.index("--output") + 1])
    output.mkdir(parents=True, exist_ok=True)
    signals = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, frame: signals.append(signal.Signals(number).name))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    names += ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SPACESCALE_GRACE_S")
    start, rank = int(os.environ.get("SLURM_RESTART_COUNT", 0)), os.environ["RANK"]
    note = {name: os.environ[name] for name in names}
    note.update(pid=os.getpid(), arguments=sys.argv[1:])
    (output / f"started-{start}-{rank}.json").write_text(json.dumps(note))
    if start == 0:
        while not signals:
            time.sleep(0.05)
        time.sleep(1)  # the checkpoint
        (output / f"signals-{rank}.json").write_text(json.dumps(signals))
        if rank == "0":
            (output / "REQUEUE").touch()
"""


class Waiting(Job):
    """A job whose ranks run the stand-in."""

    def __init__(
        self, slurm: dict[str, str], folder: Path, given: list[str], *options: str, script=SCRIPT
    ):
        make_project_with_stand_in(folder, STAND_IN)
        self.given = given
        slurm = {name: value for name, value in slurm.items() if name != "OMP_NUM_THREADS"}
        super().__init__(slurm, folder, *options, script, *given)
        named = f"runs/spacescale-pretrain-{self.id}"
        self.output = folder / (given[given.index("--output") + 1] if given else named)

    def starts(self, number: int) -> list[dict]:
        paths = self.output.glob(f"started-{number}-*.json")
        return [json.loads(path.read_text() or "{}") for path in sorted(paths)]

    def signals(self) -> list[list[str]]:
        paths = self.output.glob("signals-*.json")
        return [json.loads(path.read_text()) for path in sorted(paths)]


@pytest.fixture
def running_job(slurm: dict[str, str], tmp_path: Path) -> Waiting:
    return started(slurm, tmp_path, ["--data", "mouse", "human", "--output", "run"])


def started(
    slurm: dict[str, str], folder: Path, given: list[str], *options: str, **more
) -> Waiting:
    job = Waiting(slurm, folder, given, *options, **more)
    job.wait_for(lambda: job.starts(0) and all(job.starts(0)) and len(job.starts(0)) == ranks(job))
    return job


def ranks(job: Waiting) -> int:
    return int(job.starts(0)[0]["WORLD_SIZE"])


@pytest.mark.parametrize("script", sorted((ROOT / "slurm").glob("*.sh")), ids=lambda p: p.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, (), "submit it: sbatch slurm/pretrain_8xA40.sh"),
        ({"SLURM_JOB_ID": "1"}, ("--data", "human"), "give --output DIR too"),
        (
            {"SLURM_JOB_ID": "1", "SPACESCALE_MAX_RETRIES": "many"},
            ("--output", "run"),
            "SPACESCALE_MAX_RETRIES=many must be a whole number",
        ),
        (
            {"SLURM_JOB_ID": "1", "SPACESCALE_VENV": "none"},
            ("--output", "run"),
            "no virtual environment at none",
        ),
    ],
)
def test_refusals(variables: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | variables
    command = ["bash", SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_other_folders_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(["bash", ROOT / SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: submit it from the project's folder\n"


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
    running_job: Waiting, send: tuple[str, ...], received: str
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


def test_cancelled_job_saves_and_stays_away(running_job: Waiting) -> None:
    job = running_job
    job.ask("scancel", job.id)
    job.wait_for(lambda: len(job.signals()) == RANKS)
    job.wait_for_state("CANCELLED")
    assert job.state()["Restarts"] == "0"
    assert job.signals() == [["SIGTERM"]] * RANKS


def test_dead_rank_fails_the_job(running_job: Waiting) -> None:
    job = running_job
    os.kill(job.starts(0)[3]["pid"], signal.SIGKILL)
    job.wait_for_state("FAILED")
    assert "saved nothing since its last start: not tried again" in job.text()
    assert job.state()["Restarts"] == "0"
    assert len(job.signals()) == RANKS - 1


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("options", "gpus", "threads"),
    [
        ((), "0,1,2,3,4,5,6,7", "8"),
        (("--gpus-per-task=1",), None, "8"),  # each its own
        (("--exclusive", "--cpus-per-task=4"), "0,1,2,3,4,5,6,7", "4"),
    ],
)
def test_gpus_and_threads_of_a_rank(
    slurm: dict[str, str],
    tmp_path: Path,
    options: tuple[str, ...],
    gpus: str | None,
    threads: str,
) -> None:
    job = started(slurm, tmp_path, ["--output", "run"], *options)
    assert {start["OMP_NUM_THREADS"] for start in job.starts(0)} == {threads}
    visible = [start["CUDA_VISIBLE_DEVICES"] for start in job.starts(0)]
    assert visible == ([gpus] * RANKS if gpus else [str(rank) for rank in range(RANKS)])
    job.ask("scancel", job.id)
    job.wait_for_state("CANCELLED")


@pytest.mark.slurm
def test_whole_nodes_without_cpus_per_task(slurm: dict[str, str], tmp_path: Path) -> None:
    """A site's own copy of the script, without the line: SLURM_CPUS_PER_TASK is not set."""
    mine = tmp_path / "mine.sh"
    lines = (ROOT / SCRIPT).read_text().splitlines(keepends=True)
    mine.write_text("".join(line for line in lines if "--cpus-per-task" not in line))
    job = started(slurm, tmp_path, ["--output", "run"], "--exclusive", script=str(mine))
    assert {start["OMP_NUM_THREADS"] for start in job.starts(0)} == {"8"}  # 64 CPUs, 8 tasks
    assert {start["SPACESCALE_GRACE_S"] for start in job.starts(0)} == {"120"}
    job.ask("scancel", job.id)
    job.wait_for_state("CANCELLED")
