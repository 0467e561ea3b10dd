"""A few real training steps in this process, timed."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spacescale.config import Config
from spacescale.dataset.batch import Batch
from spacescale.dataset.loader import BatchesOnDevice, TrainingWindows, training_batches
from spacescale.metrics.throughput import memory_gib
from spacescale.objectives import objective_of
from spacescale.parallel import comm

SECONDS, MOST_MICRO_STEPS = 6.0, 50  # after the first micro-step, which does not count


@dataclass(frozen=True)
class Trial:
    """What training took, in plain PyTorch: without DeepSpeed's own work and other processes."""

    micro_step_s: float  # reading, forward and backward, of one micro-batch
    optimiser_s: float  # clipping and AdamW
    forward_window_s: float  # reading and forward, per window
    micro_steps: int  # that were timed
    memory_gib: float  # peak: of this process on CPUs, else allocated on the GPU
    cpu_share: float  # of the cores' time that this process had; 1 on GPUs


def try_out(config: Config, windows: TrainingWindows) -> Trial:
    """Train a complete configuration on its own first micro-batches, for some seconds.

    In bf16 where pretraining would choose it. Raises UserError for windows that cannot be read.
    """
    comm.share_cores()
    device = comm.device()
    torch.manual_seed(config.run.seed)
    objective = objective_of(config)
    model = objective.build().to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.optim.lr)
    read = training_batches(
        windows, 0, MOST_MICRO_STEPS + 1, config.data.num_workers, device.type == "cuda"
    )
    batches = BatchesOnDevice(read, device)
    objective.begin(windows.datasets, device)

    def in_precision(*inputs: Any) -> Any:
        with _autocast(device):
            return model(*inputs)

    def forward(batch: Batch) -> Tensor:
        return objective.losses(in_precision, batch, lambda x: x, 0).total

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    forward(next(batches)).backward()
    step()
    taken = windows_read = 0
    forward_s, began, processor = 0.0, _now(device), time.process_time()
    start = began
    for batch in batches:
        loss = forward(batch)
        forward_s += _now(device) - start
        loss.backward()
        start, taken = _now(device), taken + 1
        windows_read += sum(len(part.codes) for part in batch.values())
        if start - began > SECONDS:
            break
    processor = time.process_time() - processor
    step()
    on_cpu = device.type == "cpu"
    return Trial(
        micro_step_s=(start - began) / taken,
        optimiser_s=_now(device) - start,
        forward_window_s=forward_s / windows_read,
        micro_steps=taken,
        memory_gib=memory_gib(device),
        cpu_share=processor / (start - began) / torch.get_num_threads() if on_cpu else 1.0,
    )


def _autocast(device: torch.device):
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
