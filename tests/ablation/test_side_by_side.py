"""Commands beside each other: shares, failures, and an end that leaves nothing behind."""

import os
import subprocess
import sys
import threading
import time

import pytest

from spacescale.ablation import jobs
from spacescale.ablation.jobs import JobFailed, Jobs, Share, shares
from spacescale.errors import UserError

ANY = Share((), None)


def test_the_machine_is_dealt_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(10, 15)), raising=False)
    monkeypatch.setattr(jobs, "uses_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert shares(2) == [Share((10, 11), "4,7"), Share((12, 13, 14), "5")]
    assert [share.gpus for share in shares(4)] == ["4", "5", "7", "4"]
    monkeypatch.setattr(jobs, "uses_gpu", lambda: False)
    assert [share.gpus for share in shares(5)] == [None] * 5
    with pytest.raises(UserError, match="--jobs 6: expected 1 to 5"):
        shares(6)


def test_a_failure_hides_no_other_task(tmp_path):
    work = Jobs([ANY, ANY])

    def do(status, share):
        code = f"print('hello'); raise SystemExit({status})"
        work.call([sys.executable, "-c", code], share, dict(os.environ), tmp_path / f"{status}.log")

    failed = work.do([0, 3, 4], do)
    assert {task: str(error) for task, error in failed.items()} == {
        3: "exit status 3", 4: "exit status 4"
    }  # fmt: skip
    assert all(isinstance(error, JobFailed) for error in failed.values())
    assert (tmp_path / "0.log").read_text() == "hello\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_a_command_keeps_to_its_cores(tmp_path):
    before = os.sched_getaffinity(0)
    core = max(before)
    work = Jobs([Share((core,), None)])
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    work.do(
        ["it"],
        lambda task, share: work.call(
            [sys.executable, "-c", code], share, dict(os.environ), tmp_path / "log"
        ),
    )
    assert (tmp_path / "log").read_text() == f"[{core}]\n"
    assert os.sched_getaffinity(0) == before


# Starts a process of its own, and neither heeds SIGTERM at once: it notes it, "saves", and ends.
SLOW = """
import signal, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
def save(*_):
    time.sleep(0.3)
    print("saved", flush=True)
    child.kill()
    child.wait()
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", child.pid, flush=True)
time.sleep(600)
"""


def test_ctrl_c_ends_all_and_lets_them_save(tmp_path):
    """As Ctrl-C reaches a command: a process of its own, told by a signal."""
    code = f"""
import os, signal, sys
from pathlib import Path
from spacescale.ablation.jobs import Jobs, Share
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
work = Jobs([Share((), None)] * 2)
slow = [sys.executable, "-c", {SLOW!r}]
try:
    folder = Path({str(tmp_path)!r})
    work.do([0, 1, 2], lambda i, s: work.call(slow, s, dict(os.environ), folder / f"{{i}}.log"))
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    deadline = time.monotonic() + 60
    while not all(log.exists() and "ready" in log.read_text() for log in logs):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(2)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    for log in logs:
        first, last = log.read_text().splitlines()
        assert last == "saved"
        with pytest.raises(ProcessLookupError):
            os.kill(int(first.split()[1]), 0)
    assert not (tmp_path / "2.log").exists()


def test_nothing_is_begun_once_all_is_stopped(tmp_path):
    work = Jobs([ANY])
    begun = threading.Event()

    def do(task, share):
        begun.set()
        if task == 0:
            raise RuntimeError("a fault of the program")
        work.call([sys.executable, "-c", "pass"], share, {}, tmp_path / f"{task}.log")

    with pytest.raises(RuntimeError, match="a fault of the program"):
        work.do([0, 1], do)
    assert begun.is_set()
    with pytest.raises(jobs.Stopped):
        work.call([sys.executable, "-c", "pass"], ANY, {}, tmp_path / "late.log")
