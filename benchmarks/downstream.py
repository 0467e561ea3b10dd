"""Several weights on the same tasks in one page, of the rows that `spacescale finetune` kept.

    python benchmarks/downstream.py runs/downstream GUE/prom/prom_core_tata GUE/tf/0 > page.md

The first argument is the --out of all those commands. Each table of theirs holds one model against
the rest; here all models stand beside each other, and beside what they all have to beat.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from spacescale.tasks.read_task import read_task, task_name
from spacescale.tasks.resampling import holm
from spacescale.tasks.task import Task
from spacescale.tuning.fractions import WHOLE
from spacescale.tuning.ledger import digest_of
from spacescale.tuning.rows import Rows
from spacescale.tuning.run import BESIDE, CONTROLS
from spacescale.tuning.table import NAMES, Line, TaskTable, table_of

TUNED = re.compile(r".+, (full|lora|head)")


@dataclass(frozen=True)
class Results:
    """One task: its rows, which models and others were trained on it, with which seeds."""

    task: Task
    rows: Rows
    models: list[str]
    others: list[str]
    seeds: list[int]

    def table(self, model: str) -> TaskTable:
        """The table of `finetune`, of one of the models."""
        return table_of(self.task, self.rows, [model, *self.others], self.seeds)

    def means(self) -> dict[str, Line]:
        """The line of each method in the first table that has it."""
        found: dict[str, Line] = {}
        for model in self.models:
            for line in self.table(model).lines:
                found.setdefault(line.method, line)
        return found


def results_of(out: Path, path: Path) -> Results:
    """What is there of a task."""
    rows = Rows(out / task_name(path))
    rows.rows = [row for row in rows.rows if row.fraction == WHOLE]
    methods = list(dict.fromkeys(row.method for row in rows.rows))
    models = [name for name in methods if TUNED.fullmatch(name)]
    if not models:
        sys.exit(f"error: {rows.folder}: no row of a tuned model")
    others = [name for name in BESIDE if name in methods]
    return Results(read_task(path), rows, models, others, sorted({r.seed for r in rows.rows}))


def scores(results: Sequence[Results]) -> list[str]:
    """All methods on all tasks: mean and standard deviation over seeds; the best in bold."""
    found = [(one, one.means()) for one in results]
    methods = list(dict.fromkeys(name for _, means in found for name in means))
    methods.sort(key=lambda name: name in BESIDE)
    lines = ["| task | metric | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for one, means in found:
        best = max(means, key=lambda name: mean(means[name].scores))
        metric = one.table(one.models[0]).metric
        cells = [_cell(means.get(name), name == best) for name in methods]
        name = NAMES.get(metric, metric.capitalize())
        lines.append(f"| {one.task.name} | {name} | " + " | ".join(cells) + " |")
    return lines


def _cell(line: Line | None, best: bool) -> str:
    if line is None:
        return "–"
    found = line.scores
    text = f"{mean(found):.3f}" + (f" ± {stdev(found):.3f}" if len(found) > 1 else "")
    return f"**{text}**" if best else text


def differences(results: Sequence[Results], others: Sequence[str]) -> list[str]:
    """Each model less each of the others, on every task; p by Holm over the tasks of a pair."""
    lines = []
    models = list(dict.fromkeys(model for one in results for model in one.models))
    for other in others:
        for model in models:
            pairs = [
                (one.task.name, line.less)
                for one in results
                if model in one.models
                for line in one.table(model).lines
                if line.method == other and line.less is not None
            ]
            p_values = holm([less.p for _, less in pairs])
            for (task, less), p in zip(pairs, p_values, strict=True):
                verdict = "not distinguishable"
                if p < 0.05:
                    verdict = "better" if less.value > 0 else "worse"
                lines.append(
                    f"| {model} | {other} | {task} | {less.value:+.3f} "
                    f"[{less.interval.low:+.3f}, {less.interval.high:+.3f}] | {p:.3f} | {verdict} |"
                )
    return ["| model | less | task | difference | p, all tasks | |", "|---" * 6 + "|", *lines]


def sizes(results: Sequence[Results]) -> list[str]:
    """What each task holds, the hash of its sequences and targets, and what it took in all."""
    rows = [("task", "train", "valid", "test", "test, no copies", "sha256", "minutes")]
    for one in results:
        numbers = [f"{len(one.task.splits[split]):,}" for split in ("train", "valid", "test")]
        seconds = sum(row.seconds for row in one.rows.rows)
        rows.append(
            (
                one.task.name,
                *numbers,
                f"{one.rows.rows[0].num_unique:,}",
                f"`{digest_of(one.task)}`",
                f"{seconds / 60:.0f}",
            )
        )
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return [head, "|---" * 7 + "|", *rest]


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="--out of the commands")
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument(
        "--less", nargs="*", default=[*CONTROLS, "CNN"], help="default: %(default)s"
    )
    args = parser.parse_args()
    results = [results_of(args.out, path) for path in args.tasks]
    for part in (sizes(results), scores(results), differences(results, args.less)):
        print("\n".join([*part, ""]))


if __name__ == "__main__":
    main()
