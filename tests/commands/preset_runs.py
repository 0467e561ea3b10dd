"""Trains presets in a process of its own, which knows no conftest."""

from pathlib import Path

import torch

from spacescale.overrides import build_config
from spacescale.parallel.watch import Watch
from spacescale.train.run import prepare
from spacescale.train.signals import StopRequest


def train_all(overrides: dict[str, list[str]], data: Path, deepspeed_json: Path, folder: Path):
    """Train presets (preset → overrides) one after the other, each into a folder of its name."""
    for preset, changes in overrides.items():
        config = build_config(preset, changes)
        output, device = folder / preset, torch.device("cpu")
        stop = StopRequest()
        with Watch(stop.leave) as watch:
            run = prepare(config, [data], deepspeed_json, output, None, device, stop, watch)
            run.trainer.fit(0)
        run.lock.close()
