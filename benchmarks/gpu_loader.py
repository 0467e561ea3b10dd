"""Windows per second from a dataset on disk to the GPU, by number of reader processes.

    python benchmarks/gpu_loader.py loader --json FILE

The dataset is made up (5,313 tracks that compress as the public human set's do) and read from the
page cache: what is measured is decompression, assembly and the copy, not the disk.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_measure import Figures, Setting, now, run_part

from spacescale.dataset.loader import BatchesOnDevice, TrainingWindows, training_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.testing.made_up_data import MadeUpWindows

MICRO_BATCH = 4


def loader(figures: Figures) -> None:
    """Write the dataset, then read it with no, some and many readers."""
    setting, cores = figures.setting, len(os.sched_getaffinity(0))
    shape = (8, 48, 100, 16_384, 128) if setting.toy else (16, 896, 5313, 196_608, 128)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        data = SpeciesData.open(MadeUpWindows(*shape).write(Path(folder) / "human"))
        figures.add(
            "dataset", windows=shape[0], cores=cores, ms=1e3 * (time.perf_counter() - started)
        )
        for readers in (0, 2) if setting.toy else (0, 4, 8, max(1, cores - 1)):
            figures.measure(f"{readers} readers", partial(rate, setting, data, readers))
        if setting.device.type == "cuda":
            figures.measure("copy of pinned targets", partial(copy_rate, setting, data))


def rate(setting: Setting, data: SpeciesData, readers: int) -> dict[str, Any]:
    """Windows per second that arrive on the device once the readers are at work."""
    order = SampleOrder(
        seed=0,
        num_windows={data.name: len(data.rows("train"))},
        balance=1.0,
        micro_batch_size=MICRO_BATCH,
        world_size=1,
        shift_bp=3,
        reverse_complement=True,
    )
    windows = TrainingWindows({data.name: data}, order, 0, data.seq_length, 0)
    on_gpu = setting.device.type == "cuda"
    waiting = 2 * readers  # batches that readers hold ready
    counted = 4 if setting.toy else max(6, 5 * readers)
    began = time.perf_counter()
    batches = BatchesOnDevice(
        training_batches(windows, 0, waiting + counted + 1, readers, pin_memory=on_gpu),
        setting.device,
    )
    next(batches)
    first = time.perf_counter() - began
    for _ in range(waiting):
        next(batches)
    started = now(setting.device)
    for _ in range(counted):
        next(batches)
        batches.copy_next()
    seconds = now(setting.device) - started
    return {"windows_per_s": MICRO_BATCH * counted / seconds, "first_batch_s": first}


def copy_rate(setting: Setting, data: SpeciesData) -> dict[str, Any]:
    """Bytes per second from pinned memory, and windows of targets that are so many."""
    targets = torch.from_numpy(data.targets(0)).repeat(MICRO_BATCH, 1, 1).pin_memory()
    targets.to(setting.device, non_blocking=True)
    started = now(setting.device)
    for _ in range(10):
        targets.to(setting.device, non_blocking=True)
    seconds = (now(setting.device) - started) / 10
    return {
        "gbytes_per_s": targets.nbytes / seconds / 1e9,
        "windows_per_s": MICRO_BATCH / seconds,
    }


if __name__ == "__main__":
    run_part(__doc__, {"loader": loader})
