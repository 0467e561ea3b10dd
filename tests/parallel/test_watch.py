"""Who is blamed for a standstill, and where a thread stands."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

from torch.distributed import HashStore

from spacescale.files import sha256
from spacescale.parallel import watch as watch_module
from spacescale.parallel.lines import Line
from spacescale.parallel.watch import Beat, Watch, _blamed, _where


def test_who_began_fewer_steps_is_blamed_before_who_waits():
    assert _blamed({0: Beat(7, waits=True), 1: Beat(6, waits=True), 2: Beat(7)}) == [1]


def test_of_equally_far_ranks_those_that_wait_for_nobody_are_blamed():
    assert _blamed({0: Beat(7, waits=True), 1: Beat(7), 2: Beat(7, waits=True)}) == [1]


def test_where_all_wait_or_none_does_nobody_is_singled_out():
    assert _blamed({0: Beat(7), 1: Beat(7)}) == [0, 1]
    assert _blamed({0: Beat(7, waits=True), 1: Beat(7, waits=True)}) == [0, 1]


def test_a_place_is_the_innermost_line_of_this_package(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=sha256, args=(pipe,), daemon=True)  # waits for a writer
    reader.start()
    reader.join(0.2)
    place, waits, stack = _where(reader.ident)
    assert place.startswith("files.py:") and place.endswith("(sha256)") and not waits
    assert _where(reader.ident)[2] == stack, "it stands still"
    pipe.write_bytes(b"")
    reader.join(5)


def test_long_work_in_one_place_is_told_from_a_standstill():
    done = threading.Event()

    def work():
        while not done.is_set():
            json.loads("[" * 50 + "]" * 50)
            sorted(range(100), key=str)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    stacks = {_where(worker.ident)[2] for _ in range(50) if not done.wait(0.01)}
    done.set()
    assert len(stacks) > 1


ALONE = """
import os, time
from spacescale.parallel.watch import Watch
os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
with Watch(lambda number: None, hang_timeout_s=2) as watch:
    watch.open(None)
    time.sleep(600)
"""


def test_one_process_alone_is_watched_too():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 3
    assert "error on rank 0: has stood still for 2 s (run.hang_timeout_s) in code of" in done.stderr


def test_its_thread_has_ended_when_its_block_has(monkeypatch):
    """Else it may look at calls while the interpreter is taken down, which crashed a rank once."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with Watch(lambda number: os._exit(1)) as watch:
        watch.open(HashStore())
        assert "watch" in {thread.name for thread in threading.enumerate()}
    assert "watch" not in {thread.name for thread in threading.enumerate()}


def test_beats_do_not_answer_each_other(monkeypatch):
    """Else two ranks beat as fast as they can, and take the interpreter from their main threads."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    here, there = (Line(end) for end in socket.socketpair())
    monkeypatch.setattr(watch_module, "open_lines", lambda store: ({1: here}, {}))
    monkeypatch.setattr(watch_module, "BEAT_S", 0.2)
    heard = 0
    with Watch(lambda number: os._exit(1)) as watch:
        watch.open(HashStore())
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            heard += len(there.receive() or [])
            there.send({"beat": [heard, "somewhere", False, heard]})  # at once, as the other would
        there.send({"bye": True})
    assert 3 <= heard < 20  # thousands, if each answered
