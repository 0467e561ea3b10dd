"""Several weights on the same tasks in one page, of the rows that `spacescale finetune` kept.

    python benchmarks/downstream.py GUE/prom/prom_core_tata GUE/tf/0 --out runs/128bp runs/32bp \
        --seen yeast=seen_by_yeast.tsv --figure downstream.png > page.md

Each table of `finetune` holds one model against the rest; here all models stand beside each other,
and beside what they all have to beat. `scratch` and `random frozen` have the shape of the model:
weights of each shape need an --out of their own, and the controls of all but the first are named
after their models. --fraction takes the rows of that share of the training labels. --less names
what the models, and methods of --also, are compared with.

Reports of `spacescale contamination` on all the tasks are given by the names of weights. With
--not-seen models that have one are also compared on what neither has seen.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import zip_longest
from pathlib import Path
from statistics import mean

import numpy as np

from spacescale.evals.figures import colour_of, new_figure, save, tidy
from spacescale.tasks.duplicates import copied, find_duplicates
from spacescale.tasks.read_task import read_task
from spacescale.tasks.resampling import Difference, holm
from spacescale.tasks.seeds import DrawnScores, mean_sd
from spacescale.tasks.task import Task
from spacescale.tuning.fractions import WHOLE
from spacescale.tuning.ledger import digest_of
from spacescale.tuning.published import published
from spacescale.tuning.rows import Row, Rows
from spacescale.tuning.run import BESIDE, CONTROLS
from spacescale.tuning.seen import Seen, Verdicts, read_seen, seen_of
from spacescale.tuning.table import NAMES, Line, table_of, verdict

TUNED = re.compile(r".+, (full|lora|head)")


@dataclass(frozen=True)
class Results:
    """One task. lines, rows, answers: of each method, models first; answers (N, C) of each seed.

    seen: of models with a report. controls: by model and method, what the control of its shape is
    called.
    """

    task: Task
    lines: dict[str, Line]
    rows: dict[str, list[Row]]
    answers: dict[str, list[np.ndarray]]
    seen: dict[str, Seen]
    controls: dict[tuple[str, str], str]

    @property
    def metric(self) -> str:
        """The task's score, as files name it."""
        return next(iter(self.lines.values())).drawn.metric

    @property
    def metric_name(self) -> str:
        """The same, as people write it."""
        return NAMES.get(self.metric, self.metric.capitalize())

    def control(self, name: str, model: str) -> str:
        """What the method of this name is called that has the model's shape."""
        return self.controls.get((model, name), name)

    def drawn_not_seen(self, *models: str) -> list[DrawnScores]:
        """Of models with reports, on the test sequences that none of them has seen."""
        rows = reduce(np.intersect1d, [self.seen[model].unseen for model in models])
        test = self.task.splits["test"].take(rows)
        return [
            DrawnScores.of(
                self.task.kind,
                test.targets,
                [one[rows] for one in self.answers[model]],
                self.metric,
                test.groups,
            )
            for model in models
        ]


def results_of(
    outs: Sequence[Path], path: Path, reports: Mapping[str, Path], fraction: float = WHOLE
) -> Results:
    """What is there of a task. reports: by name of weights, what they have seen of the tasks."""
    task = read_task(path)
    there = [out for out in outs if (out / task.name).is_dir()]
    if not there:
        sys.exit(f"error: {task.name}: no rows in {', '.join(map(str, outs))}")
    lines: dict[str, Line] = {}
    kept: dict[str, list[Row]] = {}
    answers: dict[str, list[np.ndarray]] = {}
    seen: dict[str, Seen] = {}
    controls: dict[tuple[str, str], str] = {}
    for out in there:
        rows = Rows(out / task.name)
        rows.rows = [row for row in rows.rows if row.fraction == fraction]
        require_one_recipe(rows)
        methods = list(dict.fromkeys(row.method for row in rows.rows))
        models = [name for name in methods if TUNED.fullmatch(name)]
        if not models:
            sys.exit(f"error: {rows.folder}: no row of a tuned model")
        if twice := lines.keys() & set(models):
            sys.exit(f"error: {', '.join(twice)} of {task.name} stands in several --out")
        for method in [*models, *(name for name in BESIDE if name in methods)]:
            name = method
            if out != outs[0] and method in CONTROLS:
                name = f"{method} as {_weights(models[0])}"
                controls |= {(model, method): name for model in models}
            if name in lines:
                continue
            report = reports.get(_weights(method)) if method in models else None
            if report is not None:
                seen[name] = seen_of(task, _verdicts(report), report)
            kept[name] = [row for row in rows.rows if row.method == method]
            answers[name] = [rows.answers(row) for row in kept[name]]
            seeds = sorted({row.seed for row in kept[name]})
            lines[name] = table_of(task, rows, [method], seeds, seen.get(name), fraction).lines[0]
    order = sorted(lines, key=lambda name: not TUNED.fullmatch(name))
    return Results(task, {name: lines[name] for name in order}, kept, answers, seen, controls)


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


@cache
def _verdicts(report: Path) -> Verdicts:
    return read_seen(report)


def scores(results: Sequence[Results]) -> list[str]:
    """All methods on all tasks: mean and standard deviation over seeds; the highest in bold.

    The last column is SPACE's published value, of other weights and a longer training.
    """
    methods = _methods(results)
    lines = [*_head("task", "metric", *methods, "published")]
    for one in results:
        best = max(one.lines, key=lambda name: mean(one.lines[name].scores))
        cells = [_cell(one.lines.get(name), name == best) for name in methods]
        known = published(one.task)
        paper = "–"
        if known is not None and known.space is not None:
            same = known.metric == one.metric
            paper = f"{known.space:.3f}" + ("" if same else f" ({known.metric})")
        lines.append(_row(one.task.name, one.metric_name, *cells, paper))
    return lines


def _head(*cells: str) -> tuple[str, str]:
    return _row(*cells), "|---" * len(cells) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _methods(results: Sequence[Results]) -> list[str]:
    """Models, and then the rest."""
    found = list(dict.fromkeys(name for one in results for name in one.lines))
    return sorted(found, key=lambda name: not TUNED.fullmatch(name))


def _cell(line: Line | None, best: bool) -> str:
    if line is None:
        return "–"
    text = mean_sd(line.scores)
    return f"**{text}**" if best else text


def differences(
    results: Sequence[Results], others: Sequence[str], also: Sequence[str] = ()
) -> list[str]:
    """Each model, and each method of `also`, less each of the others, on every task, once a pair.

    p by Holm over the tasks of a pair. Controls are those of the model's shape, where there are.
    Where the verdict is another one without copies, both stand there.
    """
    lines = [*_head("model", "less", "task", "difference", "p, all tasks", "")]
    told: set[tuple[str, str]] = set()
    for other in others:
        for name in _methods(results):
            asked = TUNED.fullmatch(name) or name in also
            if not asked or name == other or (other, name) in told:
                continue
            told.add((name, other))
            pairs = [
                (one.task.name, one.lines[name], one.lines[second])
                for one in results
                if name in one.lines and (second := one.control(other, name)) in one.lines
            ]
            whole = [line.drawn.less(second.drawn) for _, line, second in pairs]
            unique = [_less_without_copies(line, second) for _, line, second in pairs]
            p_values = holm([less.p for less in whole])
            p_unique = holm([1.0 if less is None else less.p for less in unique])
            for (task, *_), less, p, alone, p_alone in zip(
                pairs, whole, p_values, unique, p_unique, strict=True
            ):
                interval = f"[{less.interval.low:+.3f}, {less.interval.high:+.3f}]"
                cells = f"{less.value:+.3f} {interval}", f"{p:.3f}"
                lines.append(_row(name, other, task, *cells, verdict((less, p), (alone, p_alone))))
    return lines


def differences_not_seen(results: Sequence[Results], others: Sequence[str]) -> list[str]:
    """Each model less each of the others on what neither has seen, of those with reports.

    p by Holm over the tasks of a pair.
    """
    lines = [*_head("model", "less", "task", "not seen by either", "difference", "p, all tasks")]
    for other in others:
        for name in _methods(results):
            tasks = [one for one in results if name != other and {name, other} <= one.seen.keys()]
            pairs = [one.drawn_not_seen(name, other) for one in tasks]
            found = [mine.less(theirs) for mine, theirs in pairs]
            p_values = holm([less.p for less in found])
            for one, less, p in zip(tasks, found, p_values, strict=True):
                number = np.intersect1d(one.seen[name].unseen, one.seen[other].unseen).size
                interval = f"[{less.interval.low:+.3f}, {less.interval.high:+.3f}]"
                cells = f"{number:,}", f"{less.value:+.3f} {interval}", f"{p:.3f}"
                lines.append(_row(name, other, one.task.name, *cells))
    return lines


def _less_without_copies(line: Line, other: Line) -> Difference | None:
    """None where every test sequence is in another split, too."""
    if line.drawn_unique is None or other.drawn_unique is None:
        return None
    return line.drawn_unique.less(other.drawn_unique)


def sizes(results: Sequence[Results]) -> list[str]:
    """What each task holds, what is there twice, the hash of all, and what it took in all.

    suite: its training and test sequences, where they are known. copies: of test and of valid in
    train, those of the same element among them; answers: training sequences with two of them.
    """
    splits = ("train", "valid", "test")
    copies = ("test in train", "valid in train", "two answers")
    lines = [*_head("task", *splits, "suite", *copies, "sha256", "minutes")]
    for one in results:
        all_rows = [row for of in one.rows.values() for row in of]
        numbers = [f"{all_rows[0].num[split]:,}" for split in splits]
        known, twice = published(one.task), find_duplicates(one.task)
        of_suite = (known.train, known.test) if known else ()
        numbers.append(", ".join("–" if n is None else f"{n:,}" for n in of_suite) or "–")
        train = one.task.splits["train"]
        numbers += [
            str(int(copied(one.task.splits[split], [train]).sum())) for split in ("test", "valid")
        ]
        numbers.append(str(twice.within["train"].contradictory.either_strand))
        minutes = sum(row.seconds for row in all_rows) / 60
        lines.append(_row(one.task.name, *numbers, f"`{digest_of(one.task)}`", f"{minutes:.0f}"))
    return lines


def details(results: Sequence[Results]) -> list[str]:
    """Every row: seeds, interval, scores without copies and without what was seen, and how."""
    head = ("seeds", "score", "95 % interval", "no copies", "seen", "not seen", "rate", "strands")
    lines = [*_head("task", "method", *head)]
    for one in results:
        for name, line in one.lines.items():
            made = one.rows[name][0].settings
            cells = [str(len(line.scores)), mean_sd(line.scores)]
            cells += [f"[{line.interval.low:.3f}, {line.interval.high:.3f}]", f"{line.unique:.3f}"]
            cells.append(_share(one.seen.get(name)))
            cells.append("–" if line.unseen is None else f"{line.unseen:.3f}")
            cells += [f"{made['rate']:g}" if "rate" in made else "–", made.get("strands", "–")]
            lines.append(_row(one.task.name, name, *cells))
    return lines


def _share(seen: Seen | None) -> str:
    """Of test sequences that were seen: as far as pretraining's windows were searched."""
    if seen is None:
        return "–"
    return f"{'≥ ' if seen.not_searched else ''}{seen.share:.1%}"


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
            colour = colour_of(0 if TUNED.fullmatch(name) else 1)
            axes.hlines(place, line.interval.low, line.interval.high, color=colour, lw=2, alpha=0.4)
            axes.plot(line.scores, [place] * len(line.scores), "|", color=colour, ms=7)
            axes.plot(mean(line.scores), place, "o", color=colour, ms=5)
        axes.set_title(one.task.name, fontsize=10)
        axes.set_xlabel(one.metric_name)
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
    parser.add_argument("--also", nargs="*", default=[], help="methods that are compared, too")
    parser.add_argument(
        "--seen", nargs="*", default=[], metavar="NAME=REPORT", type=named_report,
        help="of weights called NAME",
    )  # fmt: skip
    parser.add_argument(
        "--not-seen", action="store_true", help="compare also what neither of two models has seen"
    )
    parser.add_argument("--fraction", type=float, default=WHOLE, help="percent of the labels")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    reports = dict(args.seen)
    results = [results_of(args.out, path, reports, args.fraction) for path in args.tasks]
    compared = differences(results, args.less, args.also)
    parts = [sizes(results), scores(results), compared, details(results)]
    if args.not_seen:
        parts.append(differences_not_seen(results, args.less))
    for part in parts:
        print("\n".join([*part, ""]))
    if args.figure:
        draw(results, args.figure)


if __name__ == "__main__":
    main()
