"""Several weights on the same tasks in one page, of the rows that `spacescale finetune` kept.

    python benchmarks/downstream.py GUE/prom/prom_core_tata GUE/tf/0 --out runs/128bp runs/32bp \
        --seen yeast=seen_by_yeast.tsv --figure downstream.png > page.md

Each table of `finetune` holds one model against the rest; here all models stand beside each other,
and beside what they all have to beat. `scratch` and `random frozen` have the shape of the model:
weights of each shape need an --out of their own, and the controls of all but the first are named
after their models. --fraction takes the rows of that share of the training labels.

Reports of `spacescale contamination` on all the tasks are given by the names of weights.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev

from spacescale.evals.figures import colour_of, new_figure, save, tidy
from spacescale.tasks.read_task import read_task
from spacescale.tasks.resampling import holm
from spacescale.tasks.task import Task
from spacescale.tuning.fractions import WHOLE
from spacescale.tuning.ledger import digest_of
from spacescale.tuning.published import published
from spacescale.tuning.rows import Row, Rows
from spacescale.tuning.run import BESIDE, CONTROLS
from spacescale.tuning.seen import Seen, Verdicts, read_seen, seen_of
from spacescale.tuning.table import Line, TaskTable, table_of

TUNED = re.compile(r".+, (full|lora|head)")


@dataclass(frozen=True)
class Results:
    """One task. tables: that of `finetune`, of each model. lines: of each method one."""

    task: Task
    tables: dict[str, TaskTable]
    lines: dict[str, Line]
    rows: list[Row]

    @property
    def metric(self) -> str:
        """The task's score, as people write it."""
        return next(iter(self.tables.values())).metric_name


def results_of(
    outs: Sequence[Path], path: Path, reports: Mapping[str, Path], fraction: float = WHOLE
) -> Results:
    """What is there of a task. reports: by name of weights, what they have seen of the tasks."""
    task = read_task(path)
    found = Results(task, {}, {}, [])
    there = [out for out in outs if (out / task.name).is_dir()]
    if not there:
        sys.exit(f"error: {task.name}: no rows in {', '.join(map(str, outs))}")
    for out in there:
        rows = Rows(out / task.name)
        rows.rows = [row for row in rows.rows if row.fraction == fraction]
        methods = list(dict.fromkeys(row.method for row in rows.rows))
        models = [name for name in methods if TUNED.fullmatch(name)]
        if not models:
            sys.exit(f"error: {rows.folder}: no row of a tuned model")
        require_one_recipe(rows)
        if twice := found.tables.keys() & set(models):
            sys.exit(f"error: {', '.join(twice)} of {task.name} stands in several --out")
        others = [name for name in BESIDE if name in methods]
        seeds = sorted({row.seed for row in rows.rows})
        for model in models:
            seen = _seen(task, reports.get(_weights(model)))
            table = table_of(task, rows, [model, *others], seeds, seen, fraction)
            found.tables[model] = table
            for line in table.lines:
                as_model = out != outs[0] and line.method in CONTROLS
                name = f"{line.method} as {_weights(model)}" if as_model else line.method
                found.lines.setdefault(name, line)
        found.rows.extend(row for row in rows.rows if row not in found.rows)
    return found


def require_one_recipe(rows: Rows) -> None:
    """Exit where rows of one method were made with other settings, weights or files."""
    keys: dict[str, str] = {}
    for row in rows.rows:
        if keys.setdefault(row.method, row.key) != row.key:
            sys.exit(
                f"error: {rows.folder}: {row.method}, seed {row.seed}: made with other settings "
                "than its other seeds; give the command of `finetune` again"
            )


def _weights(model: str) -> str:
    return model.rpartition(",")[0]


def _seen(task: Task, report: Path | None) -> Seen | None:
    return None if report is None else seen_of(task, _verdicts(report), report)


@cache
def _verdicts(report: Path) -> Verdicts:
    return read_seen(report)


def scores(results: Sequence[Results]) -> list[str]:
    """All methods on all tasks: mean and standard deviation over seeds; the best in bold.

    The last column is SPACE's published value, of other weights and a longer training.
    """
    methods = _methods(results)
    columns = ["task", "metric", *methods, "published"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for one in results:
        best = max(one.lines, key=lambda name: mean(one.lines[name].scores))
        cells = [_cell(one.lines.get(name), name == best) for name in methods]
        known = published(one.task)
        paper = "–"
        if known is not None and known.space is not None:
            same = known.metric == next(iter(one.tables.values())).metric
            paper = f"{known.space:.3f}" + ("" if same else f" ({known.metric})")
        lines.append(f"| {one.task.name} | {one.metric} | " + " | ".join([*cells, paper]) + " |")
    return lines


def _methods(results: Sequence[Results]) -> list[str]:
    """Models, and then the rest."""
    found = list(dict.fromkeys(name for one in results for name in one.lines))
    return sorted(found, key=lambda name: not TUNED.fullmatch(name))


def _cell(line: Line | None, best: bool) -> str:
    if line is None:
        return "–"
    found = line.scores
    text = f"{mean(found):.3f}" + (f" ± {stdev(found):.3f}" if len(found) > 1 else "")
    return f"**{text}**" if best else text


def differences(results: Sequence[Results], others: Sequence[str]) -> list[str]:
    """Each model less each of the others, on every task; p by Holm over the tasks of a pair."""
    lines = []
    models = list(dict.fromkeys(model for one in results for model in one.tables))
    for other in others:
        for model in models:
            pairs = [
                (one.task.name, line.less)
                for one in results
                if model in one.tables
                for line in one.tables[model].lines
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
    head = ("task", "train", "valid", "test", "test, no copies", "sha256", "minutes")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in results:
        numbers = [f"{one.rows[0].num[split]:,}" for split in ("train", "valid", "test")]
        seconds = sum(row.seconds for row in one.rows)
        numbers += [f"{one.rows[0].num_unique:,}", f"`{digest_of(one.task)}`"]
        cells = [one.task.name, *numbers, f"{seconds / 60:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def leaks(results: Sequence[Results]) -> list[str]:
    """Scores of models with all test sequences, without copies, and without what was seen."""
    lines = ["| task | model | all | no copies | seen | not seen |", "|---" * 6 + "|"]
    for one in results:
        for model, table in one.tables.items():
            line = table.lines[0]
            cells = [f"{mean(line.scores):.3f}", f"{line.unique:.3f}", "–", "–"]
            if table.seen is not None:
                cells[2] = f"{table.seen.share:.1%}"
            if line.unseen is not None:
                cells[3] = f"{line.unseen:.3f}"
            lines.append(f"| {one.task.name} | {model} | " + " | ".join(cells) + " |")
    return lines


def draw(results: Sequence[Results], path: Path) -> None:
    """A panel for each task: every method with its seeds and the interval of their mean."""
    methods = [name for name in _methods(results) if name != "majority"][::-1]
    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    height = 0.9 + 0.24 * len(methods)
    figure = new_figure(2.3 * columns + 1.4, height * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, one in zip_longest(panels.flat, results):
        if one is None:
            axes.set_visible(False)
            continue
        for place, name in enumerate(methods):
            if (line := one.lines.get(name)) is None:
                continue
            colour = colour_of(0 if name in one.tables else 1)
            axes.hlines(place, line.interval.low, line.interval.high, color=colour, lw=2, alpha=0.4)
            axes.plot(line.scores, [place] * len(line.scores), "|", color=colour, ms=7)
            axes.plot(mean(line.scores), place, "o", color=colour, ms=5)
        axes.set_title(one.task.name, fontsize=10)
        axes.set_xlabel(one.metric)
        axes.set_yticks(range(len(methods)), methods)
        axes.grid(axis="x", alpha=0.3)
        tidy(axes)
    save(figure, path)


def named_report(text: str) -> tuple[str, Path]:
    """NAME=REPORT. Raises ArgumentTypeError for anything else."""
    name, equals, path = text.partition("=")
    if not (name and equals and Path(path).is_file()):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=REPORT, a file")
    return name, Path(path)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="of the commands")
    parser.add_argument(
        "--less", nargs="*", default=[*CONTROLS, "CNN"], help="default: %(default)s"
    )
    parser.add_argument(
        "--seen", nargs="*", default=[], metavar="NAME=REPORT", type=named_report,
        help="of weights called NAME",
    )  # fmt: skip
    parser.add_argument("--fraction", type=float, default=WHOLE, help="percent of the labels")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    reports = dict(args.seen)
    results = [results_of(args.out, path, reports, args.fraction) for path in args.tasks]
    compared = differences(results, args.less)
    for part in (sizes(results), scores(results), leaks(results), compared):
        print("\n".join([*part, ""]))
    if args.figure:
        draw(results, args.figure)


if __name__ == "__main__":
    main()
