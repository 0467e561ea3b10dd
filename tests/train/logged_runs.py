"""Runs whose validation scores are made up: what they log, and how they end."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from elastic_runs import SETTINGS

from spacescale.config import build_config
from spacescale.files import write_json
from spacescale.parallel import comm
from spacescale.train import trainer
from spacescale.train.run import prepare

WEIGHTS = ["loss.poisson_reduction=species", 'loss.species_weight={"finch": 0, "moth": 3}']
SCORES = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.25, 10: 0.3}  # step → of its validation
EACH, STOPPED = "each step", "stopped"
INTERRUPTED_AT = 7


def train(folder: Path, name: str, settings: list[str], interrupted: bool = False) -> None:
    """Train in folder/name, or go on there; `interrupted` by a signal after INTERRUPTED_AT."""
    json_file = folder / f"{name}-{comm.rank()}.json"
    write_json(json_file, {"gradient_clipping": 0.2, "zero_optimization": {"stage": 2}})
    rare = ["parallel.ep_size=1", 'data.species_importance={"perch": 0.3}']
    config = build_config("space_demo", [*SETTINGS, *rare, *settings])
    stop: Any = SimpleNamespace(signal=None)
    watch: Any = SimpleNamespace()
    places = (json_file, folder / name, "auto")
    run = prepare(config, [folder / "data"], *places, comm.device(), stop, watch)

    def made_up(*args: Any) -> dict[str, float]:
        step = run.trainer.record.step
        if interrupted and step == INTERRUPTED_AT - 1:
            stop.signal = signal.SIGTERM
        return {"valid/pearson_log1p": SCORES[step], "valid/loss/moth": 0.5}

    with patch.object(trainer, "validate", made_up):
        run.trainer.fit(run.first_step)
    run.trainer.engine.destroy()
    if run.lock is not None:
        run.lock.close()


def train_all(folder: Path) -> None:
    """Every step logged; and every fourth, interrupted, stopped early, and going on."""
    common = [*WEIGHTS, "run.valid_every=2", "optim.max_steps=10", "run.patience=2"]
    train(folder, EACH, common)
    train(folder, STOPPED, [*common, "run.log_every=4"], interrupted=True)
    train(folder, STOPPED, [*common, "run.log_every=4"])
    train(folder, STOPPED, [*common, "run.log_every=4"])
    train(folder, STOPPED, [*common, "run.log_every=4", "run.patience=3"])
