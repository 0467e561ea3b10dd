"""Run a function in several real processes, joined as a launcher would join them.

The processes are forked from a server that has imported torch and DeepSpeed and done nothing else:
each starts within a tenth of a second, and no call sees what an earlier one left behind.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.spawn import start_processes

from spacescale.parallel import comm

# All that training needs, and what DeepSpeed imports late: with it comes torch's compiler.
IMPORTED_ONCE = ["spacescale.train.run", "deepspeed.runtime.zero.muon.muon_optimizer"]
# Set before the server starts: DeepSpeed chooses its accelerator, and NumPy's BLAS starts its
# threads, which no fork takes along, when they are imported.
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 600
) -> list[Any]:
    """Call `function(*args)` in `world_size` fresh processes on the CPU; their results by rank.

    Each process joins the group through `init_distributed`, with one thread. `function` must be
    importable and its results plain and picklable. Raises the failing rank's error with its
    traceback, or TimeoutError.
    """
    port = comm.free_port()
    multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        with patch.dict(os.environ, ENVIRONMENT):
            context = start_processes(
                _run_one,
                (world_size, port, folder, function, args),
                nprocs=world_size,
                join=False,
                start_method="forkserver",
            )
        assert context is not None  # only with join=True
        deadline = time.monotonic() + timeout_s
        while not context.join(timeout=max(0.1, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                for pid in context.pids():
                    os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"{function.__name__}: not done after {timeout_s:.0f} s")
        return [pickle.loads(_result(folder, rank).read_bytes()) for rank in range(world_size)]


def _result(folder: str, rank: int) -> Path:
    return Path(folder) / f"{rank}.pickle"


def _run_one(
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        **ENVIRONMENT,
    )
    torch.set_num_threads(1)
    gc.freeze()  # ZeRO-3 collects often: not all that is imported each time
    from spacescale.parallel.engine import init_distributed

    init_distributed()
    _result(folder, rank).write_bytes(pickle.dumps(function(*args)))
    torch.distributed.destroy_process_group()
