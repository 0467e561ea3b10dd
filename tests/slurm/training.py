"""Jobs that really train, on CPUs: the embedded data and a model of toy size."""

import contextlib
import json
from pathlib import Path

from commands import TINY, by_step
from slurm_jobs import Job, make_project_on_cpus

RARELY = "1000000"
# One micro-step of a few windows per step, and nothing saved or validated but at the end.
SHORT_STEPS = [
    *("--deepspeed", "ds_configs/zero1.json"),
    *TINY,
    f"run.save_every={RARELY}",
    f"run.valid_every={RARELY}",
]
PAIR = ("--ntasks-per-node=2", "--gres=gpu:2", "--mem=4G")
START_S = 300  # the machine may be busy with other tests


class Training(Job):
    """A job that trains in the folder `run`."""

    def __init__(self, slurm: dict[str, str], folder: Path, *words: str, **variables: str):
        """words: options of sbatch, script and arguments."""
        if not (folder / "slurm").exists():
            make_project_on_cpus(folder)
        self.output = folder / "run"
        super().__init__(slurm, folder, *words, **variables)

    def step(self) -> int:
        """The last one that was logged."""
        path = self.output / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.step() >= step, START_S)

    def wait_for_restart(self, number: int) -> None:
        self.wait_for(lambda: self.state()["Restarts"] == str(number), START_S)

    def pids(self) -> dict[int, int]:
        """Rank → process, of those that are running."""
        found: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                words = (folder / "environ").read_text().split("\0")
                env = dict(word.split("=", 1) for word in words if "=" in word)
                trains = "spacescale.pretrain" in (folder / "cmdline").read_text().split("\0")
                if trains and env["SLURM_JOB_ID"] == self.id:
                    rank, pid = int(env["SLURM_PROCID"]), int(folder.name)
                    found[rank] = min(pid, found.get(rank, pid))  # of a rank, not of its reader
        return found


def losses(output: Path) -> dict[int, float]:
    """Step → loss."""
    return {step: record["train/loss"] for step, record in by_step(output).items()}
