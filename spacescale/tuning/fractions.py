"""Shares of the training labels, each contained in every larger one of the same seed.

Shapes: N training sequences, n of them drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spacescale.errors import UserError
from spacescale.tasks.task import Task

WHOLE = 100.0  # percent


@dataclass(frozen=True)
class Part:
    """What one training is given of a task.

    fraction: in percent. rows: of the whole training split, int64 (n,), ascending. task: the task
    with these as its training split; validation and test are whole.
    """

    fraction: float
    rows: np.ndarray
    task: Task

    @property
    def facts(self) -> dict[str, float]:
        """By which its rows are told from those of other shares; of the whole nothing is said."""
        return {} if self.fraction == WHOLE else {"fraction": self.fraction}


def parse_fractions(text: str | None) -> tuple[float, ...]:
    """Percentages as `1,3,10,30,100`, ascending; the whole where there are none.

    Raises UserError for anything else.
    """
    if text is None:
        return (WHOLE,)
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 < share <= WHOLE for share in found):
        raise UserError(f"--fractions {text}: expected percentages above 0 to 100, as 1,3,10,100")
    return tuple(found)


def part_of(task: Task, fraction: float, seed: int) -> Part:
    """Draw a share of the training sequences: of each class in proportion, and one at least.

    Raises UserError where it holds no known target of a label or value of which there are some.
    """
    train = task.splits["train"]
    if fraction == WHOLE:
        return Part(WHOLE, np.arange(len(train)), task)
    order = np.random.default_rng(seed).permutation(len(train))
    strata = [order]
    if task.kind == "classes":
        of_drawn = train.targets[order]
        strata = [order[of_drawn == number] for number in np.unique(of_drawn)]
    rows = np.sort(np.concatenate([s[: _count(len(s), fraction)] for s in strata]))
    _require_known(task, rows, fraction, seed)
    return Part(fraction, rows, replace(task, splits=task.splits | {"train": train.take(rows)}))


def _count(number: int, fraction: float) -> int:
    return max(1, round(number * fraction / WHOLE))


def _require_known(task: Task, rows: np.ndarray, fraction: float, seed: int) -> None:
    if task.kind == "classes":
        return
    known = ~np.isnan(task.splits["train"].targets)
    lost = known.any(0) & ~known[rows].any(0)
    if lost.any():
        raise UserError(
            f"{task.name}: of {task.outputs[int(lost.argmax())]!r} nothing is known in the "
            f"{len(rows)} training sequences that are {fraction:g} % (seed {seed}); take more"
        )
