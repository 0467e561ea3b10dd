"""The tiny data set and the runs on it that several tests look at, and a private Slurm."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import SCRIPT, arguments, deepspeed_command, make_data, run
from matplotlib.figure import Figure
from running import start_running

SLURM = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blank_figures(monkeypatch):
    """Figures are made, but saved as empty files: drawing costs more than all else together."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path: Path(path).touch())


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Three tiny species; tests must not change them."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """The tiny run, of 6 steps on 2 processes under the deepspeed launcher: (folder, process)."""
    output = tmp_path_factory.mktemp("finished") / "run"
    as_users_start_it = {"TORCHDYNAMO_DISABLE": "0"}
    return output, run(*deepspeed_command(*arguments(data, output)), **as_users_start_it)


@pytest.fixture(scope="session")
def alone(data, tmp_path_factory):
    """The tiny run of 3 steps in one process under plain python: (folder, process)."""
    output = tmp_path_factory.mktemp("alone") / "run"
    more = ["optim.max_steps=3"]
    return output, run(sys.executable, SCRIPT, *arguments(data, output, *more))


@pytest.fixture
def start(data, tmp_path):
    """`start_running` on the tiny data set; what was started ends with the test."""
    started = []

    def start_run(launcher, *more, folder=data, name="run", **changes):
        started.append(start_running(folder, tmp_path / name, launcher, *more, **changes))
        return started[-1]

    yield start_run
    for one in started:
        one.end()


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment of a running private Slurm."""
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    missing = [program for program in SLURM if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed (no {', '.join(missing)})")
    helper = Path(__file__).with_name("private_slurm.sh")
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        try:
            subprocess.run([helper, "start", folder], check=True)
            yield {
                **{k: v for k, v in os.environ.items() if not k.startswith(("MASTER_", "SLURM_"))},
                "SLURM_CONF": f"{folder}/slurm.conf",
            }
        finally:
            subprocess.run([helper, "stop", folder], check=True)
