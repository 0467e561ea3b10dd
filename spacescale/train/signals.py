"""Requests to stop: before training they end the process, later the trainer saves and leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from spacescale.files import write_text
from spacescale.parallel.run_folder import REQUEUE

if TYPE_CHECKING:  # slow to import
    from spacescale.metrics.history import Record

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
SECOND_INTERRUPT_AFTER_S = 1.0  # launchers pass a Ctrl-C on, so that it may come twice at once


def _tell_nobody(number: int) -> None:
    """Tell no other rank: none is known yet."""


class StopRequest:
    """Heeds SIGTERM, SIGUSR1, SIGHUP (the terminal is gone; not under nohup) and Ctrl-C.

    Until `training` is set they end this process at once, with status 128 + signal. In a Slurm job
    those that a scheduler sends end it with 0, and rank 0 leaves REQUEUE in `output`: nothing is
    lost, and the job shall go on later. Once training, `signal` is the first that came, and a
    second Ctrl-C calls `interrupt`; schedulers send theirs, sometimes twice, before they kill.

    A thread heeds them, since Python's own handlers wait for the main thread, which may be in C++,
    waiting for other ranks.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.training = False
        self.output: Path | None = None
        self.record: Record | None = None  # of the run, once it has begun
        self.tell_others: Callable[[int], None] = _tell_nobody  # the other ranks, before leaving
        self.interrupt: Callable[[], None] = lambda: os._exit(128 + signal.SIGINT)
        self._time = -SECOND_INTERRUPT_AFTER_S
        self._inbox, self._outbox = socket.socketpair()
        self._outbox.setblocking(False)
        signal.set_wakeup_fd(self._outbox.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: None)  # the thread does the work
        threading.Thread(target=self._run, daemon=True, name="signals").start()

    def _run(self) -> None:
        while numbers := self._inbox.recv(64):
            for number in numbers:
                if number in STOP_SIGNALS:
                    self._handle(number)

    def _handle(self, number: int) -> None:
        now, before = time.monotonic(), self._time
        if not self.training:
            self.leave(number)
        elif number == signal.SIGINT:
            self._time = now
            if self.signal == number and now - before > SECOND_INTERRUPT_AFTER_S:
                self.interrupt()
        self.signal = self.signal or number

    def leave(self, number: int) -> NoReturn:
        """End this process and, through `tell_others`, all others; training has not begun."""
        self.tell_others(number)
        name, status = signal.Signals(number).name, 128 + number
        is_main = os.environ.get("RANK", "0") == "0"
        if "SLURM_STEP_ID" in os.environ and number != signal.SIGINT:
            status = 0
            if is_main and self.output is not None:
                self.output.mkdir(parents=True, exist_ok=True)
                write_text(self.output / REQUEUE, f"{name} before the first step\n")
        if is_main and self.record is not None:
            with contextlib.suppress(OSError):
                self.record.end("stopped", signal=name)
        if is_main:
            print(f"{name}: ended before training began", file=sys.stderr, flush=True)
        os._exit(status)
