"""Ending with the processes that started this one (Linux only).

`deepspeed` starts one launcher per machine, which starts the ranks. Killed, neither of the two
ends those below it; nor does a killed `torchrun`. So every rank looks, from its first moment on,
whether all that stand above it are there.

Imports nothing slow.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from spacescale.parallel import launcher

LOOK_S = 0.5
ENDING_S = 5.0  # a killed process takes to end, at most
DEEPSPEED = ("deepspeed", "deepspeed.pt", "ds", "deepspeed.launcher.runner")  # names of its command
LAUNCH = ("deepspeed.launcher.launch",)  # what it starts on each machine
TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")
# Who takes in processes whose parent has ended, beside process 1.
REAPERS = ("systemd", "init", "tini", "docker-init", "dumb-init", "catatonit", "conmon")
REAPERS += ("containerd-shim", "slurmstepd")
FIRST_IN_CONTAINER = ("appinit", "sinit", "bwrap")  # process 1 of a container started for one rank


class StarterGone(Exception):
    """A launcher has ended before the process that it started could look for it."""


@dataclass(frozen=True)
class Process:
    """A process, told by its time of start from later ones with the same pid."""

    pid: int
    began: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process with this pid; None where there is none, or it has ended."""
        fields = _stat(pid)
        return cls(pid, fields[19]) if fields and fields[0] not in "ZX" else None

    def lives(self) -> bool:
        """Whether it has not ended."""
        return Process.of(self.pid) == self

    def words(self) -> list[str]:
        """Its command line, without folders."""
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
            return [Path(os.fsdecode(word)).name for word in words if word]
        return []

    def runs(self, names: tuple[str, ...]) -> bool:
        """Whether it is one of these commands: the program, its script or module."""
        return any(word in names for word in self.words()[:4])

    def is_reaper(self) -> bool:
        """Whether it takes in processes that others have left behind."""
        return self.pid == 1 or self._name() in REAPERS

    def starts_container(self) -> bool:
        """Whether a launcher may stand above it, out of sight."""
        return self.pid == 1 and self._name() in FIRST_IN_CONTAINER

    def _name(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/comm").read_text().strip()
        return ""


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: state, parent, group …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def end_with_starters() -> None:
    """Send this process a TERM, so that it may still save, once a process that started it is gone.

    Call it before anything slow. Raises StarterGone where one was gone already.
    """
    if sys.platform == "linux" and (found := find_starters()):
        threading.Thread(target=_wait_for_end, args=[found], daemon=True, name="starters").start()


def find_starters() -> list[Process]:
    """The processes above this one without which it shall not go on, nearest first.

    Under `deepspeed` those up to the command, under `torchrun` up to it, under srun and mpirun the
    one right above. Raises StarterGone.
    """
    above = _ancestors()
    if not above:  # they are outside this container
        return []
    if "CROSS_SIZE" in os.environ:
        return _up_to_deepspeed(above)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        place = _find(above, TORCHRUN)
        if place is None and above[0].is_reaper():
            raise StarterGone("torchrun")
        return above[: (place or 0) + 1]
    # What a left-behind process looks like is not known here; only what comes is watched.
    return above[:1] if launcher.started_by() and above[0].pid != 1 else []


def _ancestors() -> list[Process]:
    """All processes above this one that can be seen from here, nearest first."""
    give_up = time.monotonic() + ENDING_S
    while True:
        found, child = [], os.getpid()
        while (parent := _parent(child)) and (process := Process.of(parent)):
            found.append(process)
            child = parent
        # One that is not seen belongs to another user, or has ended, or is about to: of one that is
        # killed the first thread ends before the others, and only then has its child a new parent.
        if parent == _parent(child) and (_stat(parent) is None or time.monotonic() > give_up):
            return found
        time.sleep(0.01)


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _find(processes: list[Process], names: tuple[str, ...]) -> int | None:
    return next((i for i, process in enumerate(processes) if process.runs(names)), None)


def _up_to_deepspeed(above: list[Process]) -> list[Process]:
    place = _find(above, LAUNCH)
    if place is None:
        if above[-1].starts_container():
            return []
        raise StarterGone("deepspeed's launcher (deepspeed.launcher.launch)")
    launch, command = above[place], above[place + 1] if place + 1 < len(above) else None
    if command is None or (_by_ssh(launch) and not command.runs(DEEPSPEED)):
        return above[: place + 1]
    if not command.runs(DEEPSPEED) and (command.is_reaper() or not _share_group(launch, command)):
        raise StarterGone("the command `deepspeed`")
    return above[: place + 2]


def _by_ssh(launch: Process) -> bool:
    """Whether `deepspeed` started its launcher on another machine, or a user did so by hand."""
    words = launch.words()
    return any(w.startswith("--node_rank") for w in words) and not any(
        w.startswith("--log_level") for w in words
    )


def _share_group(launch: Process, command: Process) -> bool:
    """Whether two processes are of one group, as the command and its launcher always are."""
    one, other = _stat(launch.pid), _stat(command.pid)
    return one is not None and other is not None and one[2] == other[2]


def _wait_for_end(starters: list[Process]) -> None:
    """Wait until one of them is gone, then have this process save and leave.

    `deepspeed` takes a launcher that was killed for a success. It must not say so.
    """
    poll = select.poll()
    # Woken now and then, the thread could stand in the way of an interpreter that is taken down.
    wait_ms = None
    for process in starters:
        try:
            poll.register(os.pidfd_open(process.pid), select.POLLIN)
        except (OSError, AttributeError):  # Linux before 5.3, or gone
            wait_ms = LOOK_S * 1000
    while all(process.lives() for process in starters):
        poll.poll(wait_ms)
    command = starters[-1]
    if command.runs(DEEPSPEED) and command.lives():
        with contextlib.suppress(OSError):
            os.kill(command.pid, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
