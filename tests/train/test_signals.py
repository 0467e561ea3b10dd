"""What a signal does before training and in it, in small processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROCESS = """
import os, signal, sys, time
from pathlib import Path
from spacescale.train.signals import StopRequest
stop = StopRequest()
stop.output = Path(sys.argv[1])
stop.tell_others = lambda number: print("told", number, flush=True)
stop.interrupt = lambda: os._exit(3)
stop.training = sys.argv[2] == "training"
print("ready", flush=True)
while stop.signal is None:
    time.sleep(0.01)
print("remembered", stop.signal, flush=True)
time.sleep(300)
"""
LIMIT_S = 60  # a busy machine takes long to end a process


def start(folder, phase, prefix=(), **changes):
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", PROCESS, str(folder), phase],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env | changes,
        # pytest itself may run under nohup
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_training_a_signal_ends_the_process_and_tells_the_others(tmp_path, number):
    process = start(tmp_path / "run", "start")
    process.send_signal(number)
    assert process.communicate(timeout=LIMIT_S)[0] == f"told {int(number)}\n"
    assert process.returncode == 128 + number
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_in_a_slurm_job_it_asks_to_be_continued(tmp_path, number):
    process = start(tmp_path / "run", "start", SLURM_STEP_ID="0")
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert (tmp_path / "run/REQUEUE").read_text() == f"{number.name} before the first step\n"


def test_in_training_the_first_is_remembered_and_a_second_ctrl_c_ends_at_once(tmp_path):
    process = start(tmp_path, "training")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "remembered 2\n"
    process.send_signal(signal.SIGINT)  # passed on by a launcher: the same Ctrl-C
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 3


def test_under_nohup_a_hang_up_is_ignored(tmp_path):
    process = start(tmp_path, "training", prefix=["nohup"])
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == f"remembered {int(signal.SIGUSR1)}\n"
    process.kill()
