"""The tiny data set and the runs on it that several tests look at."""

import sys
from pathlib import Path

import pytest
import torch
from commands import SCRIPT, arguments, deepspeed_command, make_data, run
from matplotlib.figure import Figure
from running import start_running


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
