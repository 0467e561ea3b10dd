"""Where to compute is decided in one place, for training and for commands of one process."""

import pytest
import torch

from spacescale.errors import UserError
from spacescale.parallel import comm


@pytest.fixture
def machine(monkeypatch):
    """A machine with that many GPUs, and what DS_ACCELERATOR says there."""

    def set_up(gpus, accelerator=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.delenv("DS_ACCELERATOR", raising=False)
        if accelerator:
            monkeypatch.setenv("DS_ACCELERATOR", accelerator)

    return set_up


@pytest.mark.parametrize(
    "gpus, accelerator, expected",
    [
        (0, None, ["cpu"]),
        (0, "cpu", ["cpu"]),
        (2, None, ["cuda:0", "cuda:1"]),
        (2, "cuda", ["cuda:0", "cuda:1"]),
        (2, "cpu", ["cpu"]),
    ],
)
def test_all_gpus_unless_the_cpu_is_asked_for(machine, gpus, accelerator, expected):
    machine(gpus, accelerator)
    assert [str(device) for device in comm.devices()] == expected
    assert comm.uses_gpu() == (expected[0] != "cpu")


@pytest.mark.parametrize(
    "gpus, accelerator, message",
    [
        (0, "cuda", "DS_ACCELERATOR=cuda, but PyTorch finds no GPU"),
        (1, "xpu", "DS_ACCELERATOR=xpu: only cpu and cuda are served"),
    ],
)
def test_what_is_not_there_or_not_served_is_refused(machine, gpus, accelerator, message):
    machine(gpus, accelerator)
    with pytest.raises(UserError, match=message):
        comm.uses_gpu()
