"""What was made of one task: which rows hold for a command given again, and how new ones come.

Shapes: N test sequences, C outputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from spacescale.tasks.duplicates import without_copies
from spacescale.tasks.scores import remarks, score
from spacescale.tasks.task import Task
from spacescale.tuning.fractions import WHOLE, Part, part_of
from spacescale.tuning.rows import Row, Rows

logger = logging.getLogger(__name__)


class Ledger:
    """The rows of one task, scored as they come."""

    def __init__(self, task: Task, rows: Rows, metric: str):
        """metric: by which validation chooses and tables are made."""
        self.task, self.rows, self.metric = task, rows, metric
        self.unique = without_copies(task)
        self._digest = digest_of(task)

    def key(self, facts: dict[str, Any]) -> str:
        """Of what a row is made with, the sequences and targets of the task among it."""
        text = json.dumps(facts | {"task": self._digest}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def add(
        self,
        method: str,
        seed: int,
        key: str,
        found: np.ndarray,
        seconds: float,
        settings: dict[str, Any],
        more_remarks: Sequence[str] = (),
        part: Part | None = None,
    ) -> None:
        """Score the answers to the test sequences, float (N, C), and keep both.

        part: of the training sequences, from which they were learnt; all by default.
        """
        task, test = self.task, self.task.splits["test"]
        learnt_from = part or part_of(task, WHOLE, seed)
        scores = score(task.kind, test.targets, found)
        unique, of_unique = self.unique, dict.fromkeys(scores, float("nan"))
        if len(unique):
            of_unique = score(task.kind, test.targets[unique], found[unique])
        row = Row(
            task.name,
            method,
            seed,
            key,
            self.metric,
            scores,
            of_unique,
            {split: len(examples) for split, examples in learnt_from.task.splits.items()},
            len(unique),
            round(seconds, 1),
            settings,
            [*remarks(task.kind, test.targets, found, task.outputs), *more_remarks],
            learnt_from.fraction,
        )
        self.rows.add(row, found)
        share = "" if row.fraction == WHOLE else f", {row.fraction:g} % of the labels"
        logger.info(
            "%s: %s, seed %d%s: %s %.3f (%.0f s)",
            *(task.name, method, seed, share, self.metric, scores[self.metric], seconds),
        )


def digest_of(task: Task) -> str:
    """Of all sequences and targets, by which results of other files are told apart."""
    found = hashlib.sha256(f"{task.kind} {task.outputs}".encode())
    for split, examples in task.splits.items():
        found.update(f"{split} {examples.lengths.tolist()}".encode())
        found.update(np.concatenate(examples.codes).tobytes() + examples.targets.tobytes())
    return found.hexdigest()[:16]
