"""Joining the process group, and the few collectives the trainer needs.

Works under `deepspeed`, `torchrun`, `srun` and plain `python` (one process).
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from spacescale.errors import UserError
from spacescale.parallel import launcher

# The last resort; `watch` notices a hang after run.hang_timeout_s, which must be less.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
T = TypeVar("T")


class OtherRankFailed(UserError):
    """Raised on the ranks that did well, where another's part of the work failed."""


def launch_environment() -> None:
    """Make RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT complete.

    Launchers set them; srun's own variables are translated; plain `python` becomes one process.
    Raises UserError where WORLD_SIZE is not what the launcher started, which would otherwise wait
    for processes that never come or train several independent copies.
    """
    env = os.environ
    in_step = "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and not launcher.is_launched()
    if "RANK" not in env and in_step and int(env.get("SLURM_NTASKS", "1")) > 1:
        env["RANK"], env["LOCAL_RANK"] = env["SLURM_PROCID"], env["SLURM_LOCALID"]
        env["WORLD_SIZE"] = env["SLURM_NTASKS"]
        if "MASTER_ADDR" not in env:
            raise UserError(
                "started by srun without MASTER_ADDR; export the first node's address "
                "(see slurm/pretrain_8xA40.sh)"
            )
    env.setdefault("RANK", "0")
    env.setdefault("LOCAL_RANK", "0")
    env.setdefault("WORLD_SIZE", "1")
    env.setdefault("MASTER_ADDR", "127.0.0.1")
    env.setdefault("MASTER_PORT", str(free_port()) if env["WORLD_SIZE"] == "1" else "29500")
    for name, expected in _announced_sizes(in_step).items():
        if expected != env["WORLD_SIZE"]:
            raise UserError(
                f"WORLD_SIZE={env['WORLD_SIZE']}, but the launcher started {expected} processes "
                f"({name}). Leave WORLD_SIZE to deepspeed and torchrun; under srun start one task "
                "per GPU with the variables of slurm/pretrain_8xA40.sh"
            )


def _announced_sizes(in_step: bool) -> dict[str, str]:
    """The number of processes of the run, under each name the launcher gave it."""
    env, found = os.environ, {}
    if in_step and env.get("SLURM_STEP_NUM_TASKS", "1") != "1":  # 1: srun started a launcher
        found["SLURM_STEP_NUM_TASKS"] = env["SLURM_STEP_NUM_TASKS"]
    for machines, here in (("CROSS_SIZE", "LOCAL_SIZE"), ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE")):
        if env.get(machines) == "1" and here in env:  # machines may hold unequal numbers
            found[here] = env[here]
    return found


def free_port() -> int:
    """Return a TCP port nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def share_cores() -> None:
    """On CPUs, divide the cores between this machine's processes unless OMP_NUM_THREADS is set.

    glibc is told to keep the memory of freed tensors: returning it to the system at every step
    costs a tenth of the time in page faults.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))
    if sys.platform == "linux" and not uses_gpu():
        mmap_max, trim_threshold = -4, -1  # names and values of <malloc.h>
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from musl
        if mallopt is not None:
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 2**31 - 1)


def uses_gpu() -> bool:
    """Whether to compute on GPUs: wherever there are some, unless DS_ACCELERATOR=cpu.

    The one place where this is decided, for training and for commands of one process alike.
    Raises UserError for an accelerator that is not there, or not served.
    """
    wanted = os.environ.get("DS_ACCELERATOR")
    if wanted not in (None, "cpu", "cuda"):
        raise UserError(f"DS_ACCELERATOR={wanted}: only cpu and cuda are served")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("DS_ACCELERATOR=cuda, but PyTorch finds no GPU; unset it to use the CPU")
    return wanted != "cpu" and torch.cuda.is_available()


def device() -> torch.device:
    """This process's device: its own GPU where there is one, else the CPU."""
    if uses_gpu():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def devices() -> list[torch.device]:
    """All devices that a command of one process may use: every visible GPU, else the CPU."""
    if uses_gpu():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu")]


def rank() -> int:
    """This process's global rank, known from the launcher even before the group is joined."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return add_over_ranks(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return add_over_ranks(grad)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Differentiable sum of a tensor over all ranks.

    Its backward adds the ranks' gradients, so a loss of reduced sums that every rank computes
    alike has, after data-parallel averaging, exactly the gradient of that one loss.
    """
    return x if world_size() == 1 else _SumOverRanks.apply(x)  # pyright: ignore[reportReturnType]


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, rows: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        return _exchange(rows, send, receive, group)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _exchange(grad, ctx.receive, ctx.send, ctx.group), None, None, None


def _exchange(
    rows: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup | None
) -> Tensor:
    out = rows.new_empty(sum(receive), rows.shape[1])
    dist.all_to_all_single(out, rows.contiguous(), receive, send, group=group)
    return out


def all_to_all(
    rows: Tensor, send: list[int], receive: list[int], group: dist.ProcessGroup | None
) -> Tensor:
    """Differentiable uneven exchange of rows (R, D) within a group.

    The first send[0] rows go to the group's first rank, and so on; receive[i] rows come from its
    rank i, in rank order. Returns (Σ receive, D).
    """
    return _AllToAll.apply(rows, send, receive, group)  # pyright: ignore[reportReturnType]


def gather_rows(row: Tensor) -> Tensor:
    """Stack a vector (n,) of every rank: (world, n), the same on all ranks."""
    rows = [torch.empty_like(row) for _ in range(world_size())]
    if world_size() == 1:
        return row[None]
    dist.all_gather(rows, row)
    return torch.stack(rows)


def add_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over ranks, without gradient."""
    if world_size() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def on_main(work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 and give every rank its plain-data result, or its UserError."""
    result = on_main_only(work)
    outcome = [result]
    if world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    return outcome[0]


def on_main_only(work: Callable[[], T]) -> T | None:
    """Run `work` on rank 0, which keeps its result; all ranks raise UserError if it fails."""
    return _together(work if is_main() else lambda: None, num_workers=1)


def on_all(work: Callable[[], T]) -> T:
    """Run `work` on every rank; if it fails on any, all raise UserError with the first message."""
    return _together(work, num_workers=world_size())


def _together(work: Callable[[], T], num_workers: int) -> T:
    result, bug, failure = None, None, None
    try:
        result = work()
    except (UserError, OSError) as error:
        failure = str(error)
    except Exception as error:  # the others must not wait for this rank
        bug, failure = error, f"failed: {error!r}"
    failures = [failure]
    if world_size() > 1:
        failures = [None] * world_size()
        dist.all_gather_object(failures, failure)
    if bug is not None:
        raise bug
    failed = {place: text for place, text in enumerate(failures) if text is not None}
    if failed:
        first, text = next(iter(failed.items()))
        text = text if len(failed) == num_workers else f"rank {first}: {text}"
        raise OtherRankFailed(text) if failure is None else UserError(text)
    return result  # pyright: ignore[reportReturnType]


def leave() -> None:
    """Leave the process group before the interpreter ends.

    NCCL asks for it, and gloo needs it: its thread may still drop the last Python tensor of a
    collective, which aborts a process whose interpreter has begun to end.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
