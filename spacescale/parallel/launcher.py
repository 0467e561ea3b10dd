"""The processes that started this one: dying with them. Linux only; elsewhere nothing happens.

`deepspeed` starts one launcher per machine, which starts the ranks. Killed, neither of the two
ends those below it, and the command then even exits with 0.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

COMMANDS = ("deepspeed", "deepspeed.pt", "ds")  # names under which DeepSpeed installs its command


def is_launched() -> bool:
    """Whether `deepspeed` or `torchrun` started this process."""
    return "CROSS_SIZE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def die_with_launcher() -> None:
    """Ask Linux to kill this process when its launcher dies; call it before anything slow."""
    if is_launched() and sys.platform == "linux":
        launcher, set_parent_death_signal = os.getppid(), 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before we asked
            sys.exit("the launcher is gone")


def find_command() -> int | None:
    """Pid of the `deepspeed` command that started the launcher of this process, if one did."""
    if not is_launched() or sys.platform != "linux":
        return None
    try:
        pid = _parent(os.getppid())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # outside this container
        return None
    return pid if any(Path(os.fsdecode(word)).name in COMMANDS for word in words[:2]) else None


def is_gone(command: int) -> bool:
    """Whether the command that `find_command` found has ended."""
    return _parent(os.getppid()) != command


def _parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])
