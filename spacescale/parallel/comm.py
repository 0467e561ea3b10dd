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

# The last resort; `watch` notices a hang after run.hang_timeout_s, which must be less.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
T = TypeVar("T")


class NotMet(UserError):
    """This rank cannot join the others, which do not know: it has to say so itself."""


class OtherRankFailed(UserError):
    """Raised on the ranks that did well, where another's part of the work failed."""


class OtherRankEnds(OtherRankFailed):
    """The same, where the other ends with a bug: nothing can be done together any more."""


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
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes_here()))
    if sys.platform == "linux" and not uses_gpu():
        mmap_max, trim_threshold = -4, -1  # names and values of <malloc.h>
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from musl
        if mallopt is not None:
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 2**31 - 1)


def processes_here() -> int:
    """How many processes of this run are on this machine, as its launcher tells."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


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
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", gpu_index(local_rank, torch.cuda.device_count()))
    return torch.device("cpu")


def devices() -> list[torch.device]:
    """All devices that a command of one process may use: every visible GPU, else the CPU."""
    if uses_gpu():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu")]


def gpu_index(local_rank: int, visible: int) -> int:
    """Which of the visible GPUs the local_rank-th process of a machine takes.

    Slurm's --gpus-per-task and containers show each process one GPU, its own, as number 0.
    Raises NotMet where there are fewer GPUs than processes.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise NotMet(
            f"LOCAL_RANK={local_rank}, but {visible} GPUs are visible here (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')}); start one process per GPU"
        )
    return local_rank


def join(store: Any, device: torch.device) -> None:
    """Make the process group of all ranks, which have met in the store (torch's)."""
    store.set_timeout(COLLECTIVE_TIMEOUT)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if on_gpu and size > 1 else None,
    )


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


def gather(value: T) -> list[T]:
    """The plain data of every rank, in rank order, on all ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def on_main(work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 and give every rank its plain-data result, or its UserError."""
    result = on_main_only(work)
    outcome = [result]
    if world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    return outcome[0]


def on_main_only(work: Callable[[], T]) -> T | None:
    """Run `work` on rank 0, which keeps its result; all ranks raise UserError if it fails."""
    return _run_together(work if is_main() else lambda: None, num_taking_part=1)


def on_all(work: Callable[[], T]) -> T:
    """Run `work` on every rank; if it fails on any, all raise UserError with the first message."""
    return _run_together(work, num_taking_part=world_size())


def _run_together(work: Callable[[], T], num_taking_part: int) -> T:
    result, bug, failure = None, None, None
    try:
        result = work()
    except (UserError, OSError) as error:
        failure = str(error)
    except Exception as error:  # the others must not wait for this rank
        bug, failure = error, f"failed: {error!r}"
    found = gather((failure, bug is not None))
    if bug is not None:
        raise bug
    failed = {place: text for place, (text, _) in enumerate(found) if text is not None}
    if failed:
        first, text = next(iter(failed.items()))
        text = text if len(failed) == num_taking_part else f"rank {first}: {text}"
        if any(ends for _, ends in found):
            raise OtherRankEnds(text)
        raise OtherRankFailed(text) if failure is None else UserError(text)
    return result  # pyright: ignore[reportReturnType]
