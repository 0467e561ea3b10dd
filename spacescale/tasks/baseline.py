"""What stands beside every model of a task, fitted to the same sequences.

Shapes: N sequences, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spacescale.errors import UserError
from spacescale.tasks.task import Examples, Task


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline.

    predict: sequences → probabilities of classes or labels, or values, float64 (N, C).
    valid_score: the metric by which it was chosen, on validation sequences. settings: what was
    chosen, for whoever reads the results.
    """

    name: str
    predict: Callable[[Examples], np.ndarray]
    valid_score: float
    settings: str = ""


class Fit(Protocol):
    """What fits a baseline on `train` and chooses on `valid`."""

    def __call__(self, task: Task, seed: int = 0, metric: str | None = None) -> Baseline:
        """metric: to choose by, the main one of the task's kind where not given."""
        ...


def fitted_on(task: Task) -> tuple[Examples, Examples]:
    """Training and validation sequences; UserError where there are none."""
    for split in ("train", "valid"):
        if split not in task.splits or not len(task.splits[split]):
            raise UserError(
                f"{task.path}: task {task.name} has no sequences of split {split}, which a "
                "baseline is fitted on or chosen by"
            )
    return task.splits["train"], task.splits["valid"]
