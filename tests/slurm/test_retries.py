"""Which jobs are tried again, how often, and chains of jobs: on a private Slurm, with a stand-in.

Each start of the stand-in does what the next word of PLAN says.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from slurm_jobs import Job, make_project_with_stand_in

pytestmark = pytest.mark.slurm
SCRIPT = "slurm/pretrain_8xA40.sh"
ONE_TASK = ("--ntasks-per-node=1", "--gres=gpu:1", "--mem=1G")

STAND_IN = """\
    import json, os, sys, time
    from pathlib import Path

    output = Path(sys.argv[sys.argv.index("--output") + 1])
    output.mkdir(parents=True, exist_ok=True)
    start = len(list(output.glob("start-*")))
    note = {"arguments": sys.argv[1:], "time": time.time(), "job": os.environ["SLURM_JOB_ID"]}
    (output / f"start-{start}").write_text(json.dumps(note))
    (output / "FAILED").unlink(missing_ok=True)
    what = os.environ["PLAN"].split()[start]
    if "early" not in what:
        line = {"event": "start", "job": os.environ["SLURM_JOB_ID"]}
        with (output / "history.jsonl").open("a") as history:
            history.write(json.dumps(line, separators=(",", ":")) + "\\n")
    if "saves" in what:
        (output / f"checkpoints/step-{start + 1:08d}").mkdir(parents=True)
    if "stops" in what:
        (output / "REQUEUE").touch()
    if "refuses" in what:
        (output / "FAILED").write_text("rank 0: a shard is damaged\\nneeds a person: and so on\\n")
    if "waits" in what:
        time.sleep(600)
    sys.exit(3 if "crashes" in what or "refuses" in what else 0)
"""


class Planned(Job):
    """A job of one task that does what it is told."""

    def __init__(self, slurm: dict[str, str], folder: Path, plan: str, *given: str, **variables):
        make_project_with_stand_in(folder, STAND_IN)
        self.output = folder / "run"
        words = (*ONE_TASK, SCRIPT, "--output", "run", *given)
        pauses = {"SPACESCALE_RETRY_PAUSE_S": "1"}
        super().__init__(slurm, folder, *words, PLAN=plan, **(pauses | variables))

    def starts(self) -> list[dict]:
        paths = sorted(self.output.glob("start-*"), key=lambda path: int(path.name[6:]))
        return [json.loads(path.read_text()) for path in paths]

    def wait_for_end(self) -> str:
        """Wait for it and those that follow it."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        self.wait_for(lambda: self.state()["JobState"] in ended and not self.others(), 400)
        return self.state()["JobState"]


@pytest.mark.parametrize(
    ("plan", "starts", "end", "says"),
    [
        ("saves,crashes saves,crashes done", 3, "COMPLETED", "retry 2 of 3"),
        ("saves,crashes crashes", 2, "FAILED", "saved nothing since its last start"),
        ("crashes", 1, "FAILED", "saved nothing since its last start"),
        ("saves,refuses", 1, "FAILED", "failed by an error that a person must cure"),
        # An orderly stop between them shows that crashes are not in a row.
        (
            "saves,crashes saves,crashes saves,stops saves,crashes saves,crashes saves,crashes "
            "saves,crashes",
            7,
            "FAILED",
            "failed 4 times in a row: not tried again (SPACESCALE_MAX_RETRIES=3)",
        ),
    ],
)
def test_crashes(
    slurm: dict[str, str], tmp_path: Path, plan: str, starts: int, end: str, says: str
) -> None:
    job = Planned(slurm, tmp_path, plan)
    assert job.wait_for_end() == end
    assert len(job.starts()) == starts
    assert says in job.text()
    assert job.state()["Restarts"] == str(starts - 1)


def test_pauses_grow(slurm: dict[str, str], tmp_path: Path) -> None:
    """They show in the time at which Slurm may start the job again."""
    job = Planned(slurm, tmp_path, "saves,crashes saves,crashes done", SPACESCALE_RETRY_PAUSE_S="8")
    assert 7 < pause(job, 1) < 25
    job.wait_for(lambda: len(job.starts()) == 2)
    assert 31 < pause(job, 2) < 60
    job.ask("scancel", job.id)


def pause(job: Planned, number: int) -> float:
    """Seconds between a start that crashed and the time at which the job may start again."""
    job.wait_for(lambda: job.state()["Restarts"] == str(number))
    job.wait_for(lambda: job.state()["Reason"] == "BeginTime")
    begin = datetime.fromisoformat(job.state()["StartTime"]).timestamp()
    return begin - job.starts()[-1]["time"]


def test_none_is_tried_again_where_nobody_wants_it(slurm: dict[str, str], tmp_path: Path) -> None:
    job = Planned(slurm, tmp_path, "saves,crashes", SPACESCALE_MAX_RETRIES="0")
    assert job.wait_for_end() == "FAILED"
    assert "not tried again (SPACESCALE_MAX_RETRIES=0)" in job.text()


def test_a_restarted_job_goes_on_from_its_own_checkpoint(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    """Not again from the one of another run that --resume named at first."""
    job = Planned(slurm, tmp_path, "saves,stops done", "--resume", "other/checkpoints/step-3")
    assert job.wait_for_end() == "COMPLETED"
    given = [start["arguments"][-4:] for start in job.starts()]
    assert given == [
        ["--output", "run", "--resume", "other/checkpoints/step-3"],
        ["--resume", "other/checkpoints/step-3", "--resume", "auto"],
    ]


def test_a_job_stopped_before_its_run_began_goes_back_as_it_was_told(slurm, tmp_path) -> None:
    (tmp_path / "run/checkpoints/step-00000009").mkdir(parents=True)
    (tmp_path / "run/history.jsonl").write_text('{"event":"start","job":"0"}\n')
    back = ["--resume", "run/checkpoints/step-3"]
    job = Planned(slurm, tmp_path, "early,stops saves,stops done", *back)
    assert job.wait_for_end() == "COMPLETED"
    given = [start["arguments"][-4:] for start in job.starts()]
    assert given == [["--output", "run", *back]] * 2 + [[*back, "--resume", "auto"]]


class TestChains:
    """SPACESCALE_CHAIN=N: at most N more jobs, one after the other."""

    def test_each_job_hands_over_to_the_next(self, slurm, tmp_path):
        settings = {"SPACESCALE_CHAIN": "5", "SBATCH_TIMELIMIT": "7"}
        settings |= {"SBATCH_JOB_NAME": "chain"}
        plan = "saves,stops saves,crashes saves,stops done"
        job = Planned(slurm, tmp_path, plan, **settings)
        job.wait_for_end()
        jobs = [start["job"] for start in job.starts()]
        assert len(set(jobs)) == 4  # the fifth was cancelled when all was done
        states = [self.of(job, number) for number in jobs]
        assert [s["JobState"] for s in states] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
        assert {s["TimeLimit"] for s in states} == {"00:07:00"}
        assert {s["JobName"] for s in states} == {"chain"}
        assert {s["Restarts"] for s in states} == {"0"}
        assert job.starts()[-1]["arguments"][-2:] == ["--resume", "auto"]

    def test_its_end(self, slurm, tmp_path):
        job = Planned(slurm, tmp_path, "saves,stops saves,stops", SPACESCALE_CHAIN="1")
        job.wait_for_end()
        assert len(job.starts()) == 2
        last = job.folder / f"spacescale-pretrain-{job.starts()[-1]['job']}.out"
        assert "no job of the chain is left: submit it again" in last.read_text()

    @pytest.mark.parametrize("plan", ["saves,refuses", "crashes"])
    def test_an_error_ends_it(self, slurm, tmp_path, plan):
        job = Planned(slurm, tmp_path, plan, SPACESCALE_CHAIN="3")
        assert job.wait_for_end() == "FAILED"
        assert len(job.starts()) == 1

    def test_cancelling_the_running_job_ends_it(self, slurm, tmp_path):
        job = Planned(slurm, tmp_path, "waits", SPACESCALE_CHAIN="3")
        job.wait_for(job.starts)
        job.wait_for(job.others)
        job.ask("scancel", job.id)
        assert job.wait_for_end() == "CANCELLED"
        assert len(job.starts()) == 1

    def test_a_job_that_slurm_ends_is_followed(self, slurm, tmp_path):
        """Its ranks do not listen, and the time is up."""
        more = {"SPACESCALE_CHAIN": "1", "SBATCH_TIMELIMIT": "1"}
        job = Planned(slurm, tmp_path, "waits done", **more)
        assert job.wait_for_end() == "TIMEOUT"
        assert len(job.starts()) == 2

    def of(self, job: Job, number: str) -> dict[str, str]:
        words = job.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)
