"""Single runs of an ablation: their folders, their commands, and what they left."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import spacescale
from spacescale.config import merit
from spacescale.errors import UserError
from spacescale.evals.results import BLOCKS_FILE, SCORES_FILE
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.parallel.comm import free_port
from spacescale.parallel.run_folder import DONE, FAILED

PRETRAIN = Path(spacescale.__file__).with_name("pretrain.py")


@dataclass(frozen=True)
class Recipe:
    """What all runs share. evaluate: options of `spacescale evaluate`."""

    preset: str
    data: tuple[Path, ...]
    deepspeed: Path
    overrides: tuple[str, ...]
    evaluate: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One arm, trained at one rate with one seed. overrides: the arm's."""

    out: Path
    arm: str
    overrides: tuple[str, ...]
    rate: float
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}, rate {self.rate:g}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / self.arm / f"lr{self.rate:g}-seed{self.seed}"

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.folder.with_suffix(self.folder.suffix + ".log")

    @property
    def scores(self) -> Path:
        """Where `spacescale evaluate` leaves its figures."""
        return self.folder / "evaluation" / "test"

    def is_trained(self) -> bool:
        """Whether all its steps are done."""
        return (self.folder / DONE).is_file()

    def is_scored(self) -> bool:
        """Whether its test split has been scored."""
        return all((self.scores / name).is_file() for name in (SCORES_FILE, BLOCKS_FILE))

    def best_validation(self, metric: str) -> float:
        """The best validation score by this metric so far; NaN where there is none."""
        found = [r[metric] for r in self._metrics() if r.get(metric) is not None]
        return max(found, key=lambda score: merit(score, metric), default=math.nan)

    def seconds_per_step(self) -> float:
        """Median over the training log, so that validations and stops do not count; or NaN."""
        steps = [(r["time"], r["step"]) for r in self._metrics() if "speed/windows_per_s" in r]
        spans = [(t1 - t0) / (s1 - s0) for (t0, s0), (t1, s1) in pairwise(steps) if s1 > s0]
        return median(spans) if spans else math.nan

    def _metrics(self) -> list[dict]:
        path = self.folder / METRICS_FILE
        return read_metrics(path) if path.is_file() else []

    def reason(self) -> str:
        """Why its last command failed: what the run says, else its log's last line."""
        if (failed := self.folder / FAILED).is_file():
            lines = failed.read_text(encoding="utf-8").splitlines()[:1]
        else:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            lines = [line for line in lines if line.startswith("error: ")][-1:] or lines[-1:]
        return f"{''.join(lines).removeprefix('error: ')} ({self.log})"


def train_command(run: Run, recipe: Recipe, gpus: bool) -> list[str]:
    """The training, which goes on where it was stopped. gpus: a process on each visible one."""
    # With a number deepspeed would not heed CUDA_VISIBLE_DEVICES; on CPUs one process takes all
    # cores of its share.
    processes = [] if gpus else ["--num_gpus", "1"]
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", *processes),
        *("--master_port", str(free_port()), str(PRETRAIN)),
        *("--deepspeed", str(recipe.deepspeed), "--preset", recipe.preset, "--resume", "auto"),
        *("--data", *map(str, recipe.data), "--output", str(run.folder)),
        *(*recipe.overrides, *run.overrides, f"optim.lr={run.rate!r}", f"run.seed={run.seed}"),
    ]


def evaluate_command(run: Run, recipe: Recipe) -> list[str]:
    """The scoring of the best checkpoint on the test split, the CNN beside it with the seed."""
    command = [sys.executable, "-m", "spacescale.cli", "evaluate", str(run.folder)]
    return [*command, "--baseline-seed", str(run.seed), *recipe.evaluate]


def environment(gpus: str | None) -> dict[str, str]:
    """The surroundings of a run's commands. gpus: those that it may see."""
    # Of a launcher or a Slurm step that this command itself runs under.
    launchers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name not in launchers}
    return env if gpus is None else env | {"CUDA_VISIBLE_DEVICES": gpus}


def best_rate(trials: Sequence[Run], metric: str) -> tuple[float, dict[str, float]]:
    """The rate of the run that validated best, and the score of each rate as text.

    Runs that are not trained are left out. Raises UserError where none is left.
    """
    scores = {run: run.best_validation(metric) for run in trials if run.is_trained()}
    scores = {run: score for run, score in scores.items() if math.isfinite(score)}
    if not scores:
        raise UserError(f"{trials[0].arm}: no rate was trained to its end, so that none is chosen")
    best = max(scores, key=lambda run: merit(scores[run], metric))
    return best.rate, {f"{run.rate:g}": score for run, score in scores.items()}
