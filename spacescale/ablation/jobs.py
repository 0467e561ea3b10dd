"""Several commands at once, each with its share of the machine, none outliving this process."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from spacescale.errors import UserError
from spacescale.parallel.comm import uses_gpu

GRACE_S = 60.0  # in which a training that is told to stop saves
LOOK_S = 0.1
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Cores and GPUs of one job; gpus as CUDA_VISIBLE_DEVICES, None on CPUs."""

    cores: tuple[int, ...]
    gpus: str | None


def shares(jobs: int) -> list[Share]:
    """The machine in equal parts; with fewer GPUs than jobs, several jobs share one.

    Raises UserError where there is not a core for each.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    available = len(cores) or os.cpu_count() or 1
    if not 1 <= jobs <= available:
        raise UserError(f"--jobs {jobs}: expected 1 to {available}, the cores of this machine")
    gpus = _gpus()
    found = []
    for place in range(jobs):
        first, last = (len(cores) * i // jobs for i in (place, place + 1))
        own = gpus[place::jobs] or gpus[place % len(gpus) :][:1] if gpus else []
        found.append(Share(tuple(cores[first:last]), ",".join(own) or None))
    return found


def _gpus() -> list[str]:
    if not uses_gpu():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


class JobFailed(Exception):
    """A command ended with another status than 0."""


class Stopped(Exception):
    """Nothing more is to be begun."""


class Jobs:
    """Does tasks in threads, as many at once as there are shares."""

    def __init__(self, of: Sequence[Share]):
        self._shares = queue.SimpleQueue[Share]()
        self._number = len(of)
        for share in of:
            self._shares.put(share)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def do(self, tasks: Sequence[T], work: Callable[[T, Share], None]) -> dict[T, Exception]:
        """Do all tasks; returns those that failed. Ctrl-C and SystemExit end what is under way."""
        failed: dict[T, Exception] = {}

        def with_a_share(task: T) -> None:
            share = self._shares.get()
            try:
                work(task, share)
            finally:
                self._shares.put(share)

        with ThreadPoolExecutor(self._number) as threads:
            futures = {threads.submit(with_a_share, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    if error := future.exception():
                        if not isinstance(error, (JobFailed, UserError, OSError)):
                            raise error
                        failed[futures[future]] = error
            except BaseException:
                self._stop()
                threads.shutdown(cancel_futures=True)
                raise
        return failed

    def call(self, command: Sequence[str], share: Share, env: dict[str, str], log: Path) -> None:
        """Run a command on a share, what it prints at the end of `log`. Raises JobFailed."""
        if share.cores:
            os.sched_setaffinity(0, share.cores)  # of this thread, and of what it starts
        with self._lock:
            if self._stopped:
                raise Stopped
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as out:
                # A group of its own, which can be ended as a whole, and is not by a terminal.
                process = subprocess.Popen(
                    command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
                )
            self._running.add(process)
        try:
            status = process.wait()
        finally:
            self._running.discard(process)
        if self._stopped:
            raise Stopped
        if status:
            raise JobFailed(f"exit status {status}")

    def _stop(self) -> None:
        """Tell all to stop, and end after GRACE_S, or at another Ctrl-C, what has not ended."""
        with self._lock:
            self._stopped = True
            groups = [process.pid for process in self._running]
        try:
            _signal(groups, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
            while _signal(groups, 0) and time.monotonic() < deadline:
                time.sleep(LOOK_S)
        finally:
            _signal(groups, signal.SIGKILL)


def _signal(groups: Sequence[int], number: int) -> bool:
    """Send a signal to process groups; whether any of them is left."""
    left = False
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            left = True
    return left
