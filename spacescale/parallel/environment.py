"""RANK, WORLD_SIZE and their like, from whatever launcher started this process."""

from __future__ import annotations

import os
import sys

from spacescale.errors import UserError
from spacescale.parallel import launcher
from spacescale.parallel.comm import NotMet

DEFAULT_PORT = "29500"
# The system finds one as the store opens: one that was looked up before may be taken by then. It
# stays 0 for a later run in this process, for the same reason.
ANY_PORT = "0"


def launch_environment() -> str:
    """Make RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT complete.

    `deepspeed` and `torchrun` set them; the variables of mpirun and srun are translated; plain
    `python` becomes one process. Returns where RANK and WORLD_SIZE come from, for messages.
    Raises UserError where they are not what the launcher started, which would otherwise wait for
    processes that never come or train several independent copies; NotMet where it is this rank's
    own number that is wrong.
    """
    env = os.environ
    started = launcher.started_by()
    source = "RANK, WORLD_SIZE from the environment"
    if "RANK" not in env:
        if started:
            _translate(started)
            source = f"RANK, WORLD_SIZE from {started.rank}, {started.size} of {started.launcher}"
        elif names := list(launcher.unusable_variables()):
            raise UserError(
                f"{', '.join(f'{name}={env[name]}' for name in names)}: set by a launcher that is "
                "not served. Use deepspeed, torchrun, srun or mpirun, or set RANK, LOCAL_RANK, "
                f"WORLD_SIZE, MASTER_ADDR and MASTER_PORT; for one process: unset {' '.join(names)}"
            )
    env.setdefault("RANK", "0")
    env.setdefault("LOCAL_RANK", "0")
    env.setdefault("WORLD_SIZE", "1")
    env.setdefault("MASTER_ADDR", "127.0.0.1")
    env.setdefault("MASTER_PORT", ANY_PORT if env["WORLD_SIZE"] == "1" else DEFAULT_PORT)
    _check_numbers()
    _check_sizes(started)
    return source


def _translate(started: launcher.Variables) -> None:
    env = os.environ
    if started is launcher.SRUN and "SLURM_PTY_PORT" in env and sys.stdin and sys.stdin.isatty():
        raise UserError(
            f"{started.size}={env[started.size]} is left over from an interactive `srun --pty`: "
            "start the processes by deepspeed, torchrun or an srun of their own; for one process: "
            f"unset {started.size}"
        )
    env["RANK"], env["LOCAL_RANK"] = env[started.rank], env[started.local_rank]
    env.setdefault("WORLD_SIZE", env[started.size])
    if here := _processes_here(started):
        env.setdefault("LOCAL_WORLD_SIZE", here)
    if "MASTER_ADDR" not in env and here != env[started.size]:
        raise UserError(
            f"{started.launcher} started {env[started.size]} processes ({started.size}), without "
            "MASTER_ADDR: export the address of the machine of rank 0 (slurm/pretrain_8xA40.sh "
            f"shows how); for one process: unset {started.size}"
        )


def _processes_here(started: launcher.Variables) -> str | None:
    """How many of the processes run on this machine, where the launcher tells."""
    if started is launcher.SRUN:
        alone = os.environ.get("SLURM_STEP_NUM_NODES") == "1"
        return os.environ[started.size] if alone else None
    return os.environ.get(started.local_size)


def _check_numbers() -> None:
    env = os.environ
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not env[name].isdecimal():
            raise NotMet(f"{name}={env[name]!r} must be a whole number")
    if int(env["RANK"]) >= int(env["WORLD_SIZE"]):
        raise NotMet(
            f"RANK={env['RANK']} must be less than WORLD_SIZE={env['WORLD_SIZE']}; left over in "
            "the shell? unset RANK WORLD_SIZE"
        )


def _check_sizes(started: launcher.Variables | None) -> None:
    """Compare RANK and WORLD_SIZE with what the launcher told, under each name it used."""
    env = os.environ
    for name, expected in _announced_sizes(started).items():
        if expected != env["WORLD_SIZE"]:
            raise UserError(
                f"WORLD_SIZE={env['WORLD_SIZE']}, but the launcher started {expected} processes "
                f"({name}). Leave WORLD_SIZE to deepspeed, torchrun, srun and mpirun (unset "
                f"WORLD_SIZE RANK); if {name} is left over from an interactive shell: unset {name}"
            )
    if started and env[started.rank] != env["RANK"]:
        raise NotMet(
            f"RANK={env['RANK']}, but {started.launcher} made this process number "
            f"{env[started.rank]} ({started.rank}); left over in the shell? unset RANK LOCAL_RANK"
        )


def _announced_sizes(started: launcher.Variables | None) -> dict[str, str]:
    env, found = os.environ, {}
    if started:
        found[started.size] = env[started.size]
    for machines, here in (("CROSS_SIZE", "LOCAL_SIZE"), ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE")):
        if env.get(machines) == "1" and here in env:  # machines may hold unequal numbers
            found[here] = env[here]
    return found
