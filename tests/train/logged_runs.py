"""Runs whose validation scores are made up: what they log, and how they end."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from elastic_runs import SETTINGS

from spacescale.files import write_json
from spacescale.objectives import ProfilesObjective
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.train.run import prepare

WEIGHTS = ["loss.poisson_reduction=species", 'loss.species_weight={"finch": 0, "moth": 3}']
SCORES = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.25, 10: 0.3}  # step → of its validation
EACH, STOPPED = "each step", "stopped"
WHOLE, IN_FIRST, IN_LAST = "whole", "stopped in the first", "stopped in the last validation"
INTERRUPTED_AT = 7


class StopAfter:
    """A stop that comes once it was asked for so many times, on rank 1 alone."""

    def __init__(self, times: int = 10**9):
        self.times, self.asked = times, 0

    @property
    def signal(self) -> signal.Signals | None:
        self.asked += 1
        return signal.SIGTERM if comm.rank() == 1 and self.asked > self.times else None


def begin(folder: Path, name: str, settings: list[str], stop: Any) -> Any:
    """A run in folder/name, new or going on."""
    json_file = folder / f"{name}-{comm.rank()}.json"
    write_json(json_file, {"gradient_clipping": 0.2, "zero_optimization": {"stage": 2}})
    rare = ["parallel.ep_size=1", 'data.species_importance={"perch": 0.3}']
    config = build_config("space_demo", [*SETTINGS, *rare, *settings])
    places = (json_file, folder / name, "auto")
    watch: Any = SimpleNamespace()
    return prepare(config, [folder / "data"], *places, comm.device(), stop, watch)


def finish(run: Any) -> None:
    """Train to the end."""
    run.trainer.fit(run.first_step)
    run.trainer.engine.destroy()
    if run.lock is not None:
        run.lock.close()


def train_through_validations(folder: Path) -> None:
    """Four steps with two validations; also stopped in the first, twice, and in the last."""
    settings = ["run.valid_every=2", "optim.max_steps=4", "run.log_every=1", "run.valid_windows=8"]
    never = StopAfter()
    finish(begin(folder, WHOLE, settings, never))
    # A stop is asked for once a step, and before each batch of a validation.
    for name, *times in ((IN_FIRST, 3, 1), (IN_LAST, never.asked - 1)):
        for stop in (*map(StopAfter, times), StopAfter()):
            finish(begin(folder, name, settings, stop))


def train(folder: Path, name: str, settings: list[str], interrupted: bool = False) -> None:
    """Train in folder/name, or go on there; `interrupted` by a signal after INTERRUPTED_AT."""
    stop: Any = SimpleNamespace(signal=None)
    run = begin(folder, name, settings, stop)

    def made_up(*args: Any) -> dict[str, float]:
        step = run.trainer.record.step
        if interrupted and step == INTERRUPTED_AT - 1:
            stop.signal = signal.SIGTERM
        return {"valid/pearson_log1p": SCORES[step], "valid/loss/moth": 0.5}

    with patch.object(ProfilesObjective, "validate", made_up):
        finish(run)


def train_all(folder: Path) -> None:
    """Every step logged; and every fourth, interrupted, stopped early, and going on."""
    common = [*WEIGHTS, "run.valid_every=2", "optim.max_steps=10", "run.patience=2"]
    train(folder, EACH, common)
    train(folder, STOPPED, [*common, "run.log_every=4"], interrupted=True)
    train(folder, STOPPED, [*common, "run.log_every=4"])
    train(folder, STOPPED, [*common, "run.log_every=4"])
    train(folder, STOPPED, [*common, "run.log_every=4", "run.patience=3"])
    train_through_validations(folder)
