"""A run that goes on in other numbers of processes: what each step read, and its losses."""

import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from spacescale.dataset.loader import TrainingWindows
from spacescale.errors import UserError
from spacescale.files import write_json
from spacescale.metrics.writer import read_metrics
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.parallel.gradient_order import GradientOrder
from spacescale.train.run import prepare

SETTINGS = [
    "model.seq_length=192", "model.target_length=8", "model.num_downsamples=4",
    "model.dim=48", "model.dim_divisible_by=8", "model.depth=1", "model.heads=2",
    "model.attn_dim_key=8", "model.tracks_num_experts=4", "model.dropout=0",
    "model.attn_dropout=0", "model.pos_dropout=0", "loss.mi_weight=0.1",
    "data.global_batch_size=4", "data.micro_batch_size=4", "data.species_balance=0.5",
    'data.species_importance={"finch": 1.5}',
    "optim.lr=3e-4", "optim.warmup_steps=2",
    "run.log_every=1", "run.valid_every=1000", "run.save_every=1000", "run.valid_windows=1",
]  # fmt: skip
STOPPED_AT, LAST = 4, 24  # steps


@dataclass(frozen=True)
class Leg:
    """Part of a run: in a folder of its own, from where another was stopped, or from nothing."""

    name: str
    world: int
    ep_size: int
    zero: int
    origin: str | None = None
    first: int = 0
    stop: int = LAST


def run_leg(folder: Path, leg: Leg) -> dict[int, list[tuple[str, int]]]:
    """Train until it is stopped, or to the end; step → (species, row) that this rank read.

    A step is one micro-step.
    """
    settings = [*SETTINGS, f"optim.max_steps={LAST}", f"parallel.ep_size={leg.ep_size}"]
    read: dict[int, list[tuple[str, int]]] = {}
    honest = TrainingWindows.__getitem__

    def watched(windows: TrainingWindows, micro_step: int):
        batch = honest(windows, micro_step)
        rows = ((name, row) for name, part in batch.items() for row in part.rows.tolist())
        read[micro_step] = list(rows)
        if micro_step == leg.stop:  # it is read ahead, during the step before
            stop.signal = signal.SIGTERM
        return batch

    json_file = folder / f"{leg.name}-{comm.rank()}.json"
    zero = {"stage": leg.zero, "stage3_param_persistence_threshold": 0}
    write_json(json_file, {"gradient_clipping": 0.2, "zero_optimization": zero})
    resume = leg.origin and str(folder / leg.origin / f"checkpoints/step-{leg.first:08d}")
    config = build_config("space_demo", settings)
    stop: Any = SimpleNamespace(signal=None)
    watch: Any = SimpleNamespace()
    places = (json_file, folder / leg.name, resume)
    run = prepare(config, [folder / "data"], *places, comm.device(), stop, watch)
    with patch.object(TrainingWindows, "__getitem__", watched):
        run.trainer.fit(run.first_step)
    return read


def refused_out_of_order(folder: Path, leg: Leg) -> str:
    """What a run says whose ranks' gradients arrive in different orders."""
    with patch.object(GradientOrder, "take", lambda order: comm.rank()):
        try:
            run_leg(folder, leg)
        except UserError as error:
            return str(error)
    return ""


def losses(output: Path) -> dict[int, float]:
    logged = read_metrics(output / "metrics.jsonl")
    return {r["step"]: r["train/loss"] for r in logged if "train/loss" in r}
