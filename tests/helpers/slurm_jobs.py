"""Jobs on a private Slurm, submitted from a folder that looks like the project's."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

from commands import BIN, REPO


def make_project(folder: Path, activate: str) -> None:
    """The scripts and configurations, and a virtual environment whose activate script is given."""
    for name in ("slurm", "ds_configs"):
        (folder / name).symlink_to(REPO / name)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").write_text(activate)


def make_project_with_stand_in(folder: Path, stand_in: str) -> None:
    """A project whose `python` is the stand_in: a program in Python in place of the training."""
    make_project(folder, f"PATH={folder}/.venv/bin:$PATH\n")
    python = folder / ".venv/bin/python"
    python.write_text(f"#!{sys.executable}\n{dedent(stand_in)}")
    python.chmod(0o755)


def make_project_on_cpus(folder: Path) -> None:
    """A project whose jobs really train, on CPUs."""
    settings = "DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1"
    make_project(folder, f"PATH={BIN}:$PATH\nexport {settings}\n")


class Job:
    """A submitted job."""

    def __init__(self, slurm: dict[str, str], folder: Path, *words: str, **variables: str):
        """words: options of sbatch, script and arguments. slurm: its environment."""
        self.folder, self.slurm = folder, {**slurm, **variables}
        self.id = self.ask("sbatch", "--parsable", *words)
        self.log = Path(self.state()["StdOut"])

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.slurm, check=True, text=True, stdout=subprocess.PIPE
        )
        return done.stdout.strip()

    def state(self) -> dict[str, str]:
        words = self.ask("scontrol", "show", "job", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def text(self) -> str:
        """What the job has written so far."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"{self.state()}\n{self.text()}"
            time.sleep(0.1)

    def wait_for_state(self, state: str, timeout_s: float = 60) -> None:
        self.wait_for(lambda: self.state()["JobState"] == state, timeout_s)

    def others(self) -> list[str]:
        """Numbers of all jobs that are in the queue, but for this one."""
        found = self.ask("squeue", "--noheader", "--format=%i").split()
        return [number for number in found if number != self.id]
