"""Which launcher started this process, as its variables tell.

Imports nothing slow: data_prep/shard.py asks here too which mpirun or srun started it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Variables:
    """The names under which a launcher tells a process its place."""

    launcher: str
    rank: str
    size: str
    local_rank: str
    local_size: str  # on this machine

    def is_complete(self) -> bool:
        """Whether a process can join the others by them."""
        return all(name in os.environ for name in (self.rank, self.size, self.local_rank))


MPI = (
    Variables(
        "mpirun of Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Variables(
        "mpirun of MVAPICH",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    Variables(
        "mpirun of MPICH or Intel MPI",
        "PMI_RANK",
        "PMI_SIZE",
        "MPI_LOCALRANKID",
        "MPI_LOCALNRANKS",
    ),
)
SRUN = Variables("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "")
# Ranks of launchers whose other variables are not known here.
RANKS_OF_OTHER_LAUNCHERS = (
    "PMIX_RANK",
    "PALS_RANKID",
    "JSM_NAMESPACE_RANK",
    "FLUX_TASK_RANK",
    "ALPS_APP_PE",
)


def started_by() -> Variables | None:
    """The mpirun or srun that started this process as one of several.

    mpirun comes first: inside a Slurm job it may use srun to start its own helpers. None where
    `deepspeed` or `torchrun` stand between, where there is one process only, and outside.
    """
    if is_launched():
        return None
    known = (*MPI, *([SRUN] if "SLURM_STEP_ID" in os.environ else []))
    found = (v for v in known if v.is_complete())
    return next((v for v in found if os.environ[v.size] != "1"), None)


def unusable_variables() -> Iterator[str]:
    """Names of variables by which several processes were started, but which do not tell enough."""
    if is_launched() or any(v.is_complete() for v in (*MPI, SRUN)):
        return
    for variables in MPI:
        if os.environ.get(variables.size, "1") != "1":
            yield variables.size
    yield from (name for name in RANKS_OF_OTHER_LAUNCHERS if name in os.environ)


def is_launched() -> bool:
    """Whether `deepspeed` or `torchrun` started this process."""
    return "CROSS_SIZE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
