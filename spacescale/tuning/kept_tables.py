"""Tables of the tasks of a suite that other commands have finished, for the one over all tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spacescale.errors import UserError
from spacescale.files import read_json
from spacescale.tasks.task import Task
from spacescale.tuning.rows import Row, Rows
from spacescale.tuning.seen import Seen
from spacescale.tuning.table import TaskTable, table_of
from spacescale.tuning.tuned_model import CONFIG

logger = logging.getLogger(__name__)


@dataclass
class KeptTables:
    """What is there of tasks that a command does not make.

    tasks: name → folder; read: gives the task of both, and what was seen of it. out: the folder of
    results. digest: of the weights, whose rows alone are taken.
    """

    tasks: dict[str, Path]
    out: Path
    digest: str
    read: Callable[[str, Path], tuple[Task, Seen | None]]
    _made: dict[str, tuple[list[Row], list[TaskTable]]] = field(default_factory=dict)

    def tables(
        self, methods: Sequence[str], fractions: Sequence[float]
    ) -> dict[str, list[TaskTable]]:
        """Name → a table for each fraction, of tasks that are finished; methods: the model first.

        A table is made anew only where rows have changed, as other commands may add some meanwhile.
        """
        for name in self.tasks:
            rows = Rows(self.out / name)
            if name not in self._made or self._made[name][0] != rows.rows:
                self._made[name] = rows.rows, self._tables(name, rows, methods, fractions)
        return {name: tables for name, (_, tables) in self._made.items() if tables}

    def _tables(
        self, name: str, rows: Rows, methods: Sequence[str], fractions: Sequence[float]
    ) -> list[TaskTable]:
        finished = [_finished(rows, methods, fraction) for fraction in fractions]
        there = [name for name in methods if name in finished[0]]
        if not there or any(of.keys() != finished[0].keys() for of in finished):
            return []
        try:
            self._require_weights(rows, [row for of in finished for row in of[there[0]]])
            task, seen = self.read(name, self.tasks[name])
            _require_same_test(rows, task)
        except UserError as error:
            logger.warning("%s is left out of the table over tasks: %s", name, error)
            return []
        return [
            table_of(task, rows, there, [row.seed for row in of[there[0]]], seen, fraction)
            for fraction, of in zip(fractions, finished, strict=True)
        ]

    def _require_weights(self, rows: Rows, of_model: Sequence[Row]) -> None:
        for row in of_model:
            config = rows.folder / "weights" / row.stem / CONFIG
            if config.is_file() and read_json(config)["trained"].get("weights") != self.digest:
                raise UserError(f"{config}: tuned from other weights of the same name")


def _require_same_test(rows: Rows, task: Task) -> None:
    found, was = len(task.splits["test"]), rows.rows[0].num["test"]
    if found != was:
        raise UserError(f"{task.path}: {found} test sequences; rows in {rows.folder} are of {was}")


def _finished(rows: Rows, methods: Sequence[str], fraction: float) -> dict[str, list[Row]]:
    """The rows of methods that have some; none at all where a seed, or answers, are missing."""
    found: dict[str, list[Row]] = {}
    for row in rows.rows:
        if row.method in methods and row.fraction == fraction:
            found.setdefault(row.method, []).append(row)
            if not rows.find(row.method, row.seed, row.key):  # its answers are gone
                return {}
    seeds = {row.seed for row in found.get(methods[0], [])}
    return found if seeds and all(_is_whole(of, seeds) for of in found.values()) else {}


def _is_whole(rows: Sequence[Row], seeds: set[int]) -> bool:
    """Whether rows of a method are of one recipe, with all seeds; what has none has one row."""
    # Shares of the labels may be read with one vocabulary or another, which is in their keys.
    read_as = {str(row.settings.get("vocabulary")) for row in rows}
    if len({row.key for row in rows}) > len(read_as):
        return False
    without_seed = len(rows) == 1 and "seed" not in rows[0].settings
    return without_seed or {row.seed for row in rows} == seeds
