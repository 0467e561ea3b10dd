"""Run a function in several real processes, joined as a launcher would join them."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from spacescale.parallel import comm


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 240
) -> list[Any]:
    """Call `function(*args)` in `world_size` new processes on the CPU; their results by rank.

    Each process joins the group through `init_distributed`, with one thread. `function` must be
    importable and its results plain and picklable. Raises the failing rank's error with its
    traceback, or TimeoutError.
    """
    port = comm.free_port()
    # DeepSpeed chooses its accelerator when it is imported, before the children's first line.
    os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        context = spawn(
            _run_one, (world_size, port, folder, function, args), nprocs=world_size, join=False
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
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    from spacescale.parallel.engine import init_distributed

    init_distributed()
    _result(folder, rank).write_bytes(pickle.dumps(function(*args)))
    torch.distributed.destroy_process_group()
