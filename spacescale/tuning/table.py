"""Results of tasks as tables for people.

Shapes: N test sequences, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from spacescale.tasks.duplicates import DuplicateReport, copied, without_copies
from spacescale.tasks.resampling import Difference, Interval, holm
from spacescale.tasks.scores import main_score
from spacescale.tasks.seeds import DrawnScores, mean_sd
from spacescale.tasks.task import Examples, Task
from spacescale.tuning.fractions import WHOLE
from spacescale.tuning.published import metric_of_suite, published
from spacescale.tuning.rows import Row, Rows
from spacescale.tuning.seen import Seen

POOLED = {
    "mean": "mean over positions",
    "sum": "sum over positions",
    "max": "maximum over positions",
    "cls": "[CLS]",
}
NOT_LOOKED_AT = (
    "share of test sequences seen in pretraining: not looked at (`spacescale contamination`, then "
    "--seen)"
)
ALPHA = 0.05  # below it p says that there is a difference
NAMES = {"mcc": "MCC", "macro_f1": "macro-F1", "auroc": "AUROC", "auprc": "AUPRC"}


@dataclass(frozen=True)
class Line:
    """What one method gave with all seeds.

    scores: of each seed; drawn: the same with test sequences drawn again. interval: of their mean,
    over test sequences and seeds. unique: the mean of the test sequences that occur nowhere else,
    drawn_unique: these drawn again, None where there are none; unseen: of those that pretraining
    has not seen. less, less_unique: the model asked for less this method, of all and of those that
    occur nowhere else.
    """

    method: str
    scores: list[float]
    drawn: DrawnScores
    interval: Interval
    unique: float
    drawn_unique: DrawnScores | None
    unseen: float | None
    less: Difference | None
    less_unique: Difference | None
    seconds: float
    remarks: list[str]


@dataclass(frozen=True)
class TaskTable:
    """The results of one task; the first line is the model that was asked for.

    That is of pretrained weights. num: sequences by split. fraction: percent of the training labels
    that were used. of_model: what is pooled of the model, and which epoch was kept; recipe: how it
    was trained.
    """

    task: Task
    metric: str
    num: dict[str, int]
    num_unique: int
    seen: Seen | None
    lines: list[Line]
    fraction: float = WHOLE
    of_model: str = ""
    recipe: str = ""

    @property
    def title(self) -> str:
        """Of what it is a table."""
        if self.fraction == WHOLE:
            return self.task.name
        return f"{self.task.name}, {self.fraction:g} % of the training labels"

    @property
    def metric_name(self) -> str:
        """The metric as people write it."""
        return NAMES.get(self.metric, self.metric.capitalize())

    @property
    def has_copies(self) -> bool:
        """Whether other splits hold sequences of test."""
        return self.num_unique < self.num["test"]

    @property
    def best_other(self) -> Line | None:
        """Of all the rest that which is best on the test split itself: the hardest to beat."""
        return max(self.lines[1:], key=lambda line: mean(line.scores), default=None)


def table_of(
    task: Task,
    rows: Rows,
    methods: Sequence[str],
    seeds: Sequence[int],
    seen: Seen | None = None,
    fraction: float = WHOLE,
    chosen: Mapping[str, Any] | None = None,
) -> TaskTable:
    """Gather the rows of a task. methods: as lines, the model first.

    chosen: of the model, where its rows were kept without (`Pretrained.choices`).
    """
    test = task.splits["test"]
    by_method = {name: rows.of(name, seeds, fraction) for name in methods}
    first = by_method[methods[0]][0]
    metric = first.metric
    answers = {name: [rows.answers(row) for row in of] for name, of in by_method.items()}
    drawn = {name: _drawn(task, test, of, metric) for name, of in answers.items()}
    without = drawn
    if len(unique := without_copies(task)) < len(test):
        without = {
            name: _drawn(task, test.take(unique), [one[unique] for one in of], metric)
            for name, of in answers.items()
            if len(unique)
        }
    lines = []
    for name, of in by_method.items():
        less, less_unique, unseen = None, None, None
        if seen is not None and len(seen.unseen):
            rest = test.targets[seen.unseen]
            unseen = mean(
                main_score(task.kind, rest, one[seen.unseen], metric) for one in answers[name]
            )
        if name != methods[0]:
            less = drawn[methods[0]].less(drawn[name])
            less_unique = without[methods[0]].less(without[name]) if without else None
        lines.append(
            Line(
                name,
                [row.scores[metric] for row in of],
                drawn[name],
                drawn[name].interval(),
                mean(row.unique[metric] for row in of),
                without.get(name),
                unseen,
                less,
                less_unique,
                mean(row.seconds for row in of),
                [*_of_seeds(of), *_of_choices(of[0].settings)],
            )
        )
    words = _in_words({**(chosen or {}), **first.settings}, metric), _recipe(first.settings)
    return TaskTable(task, metric, first.num, first.num_unique, seen, lines, fraction, *words)


def _drawn(task: Task, test: Examples, answers: Sequence[np.ndarray], metric: str) -> DrawnScores:
    return DrawnScores.of(task.kind, test.targets, answers, metric, test.groups)


def _of_seeds(rows: Sequence[Row]) -> list[str]:
    """The remarks of a method's rows; of those that not all of them have, with which seeds."""
    seeds: dict[str, list[int]] = {}
    for row in rows:
        for remark in dict.fromkeys(row.remarks):
            seeds.setdefault(remark, []).append(row.seed)
    return [_with_seeds(remark, found, len(rows)) for remark, found in seeds.items()]


def _with_seeds(remark: str, seeds: Sequence[int], of: int) -> str:
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    if len(seeds) == of or remark.startswith(f"{named}: "):
        return remark
    return f"{named} of {of}: {remark}"


def _in_words(settings: Mapping[str, Any], metric: str) -> str:
    """What a fine-tuned model reads out, and which of its epochs; '' of rows that do not tell."""
    if not {"layer", "pool", "best_epoch"} <= settings.keys():
        return ""
    pool, layer = settings["pool"], settings["layer"]
    words = f"{POOLED.get(pool, pool)} of layer {layer}"
    if "species" in settings:
        words += f", species {settings['species']}"
    if "like" in settings:
        words += f" begun as {settings['like']}"
    return f"{words}, the epoch best on validation ({NAMES.get(metric, metric.capitalize())})"


def _recipe(settings: Mapping[str, Any]) -> str:
    """How a fine-tuned model was trained; '' of rows that do not tell."""
    if not {"tried", "min_steps", "live_batchnorm"} <= settings.keys():
        return ""
    both, patience = settings["strands"] == "both", settings["patience"]
    tried = " (either tried)" if len(settings["tried_strands"]) > 1 else ""
    words = [
        POOLED.get(settings["pool"], settings["pool"]),
        f"{settings['epochs']} {'epoch' if settings['epochs'] == 1 else 'epochs'} of batches of "
        f"{settings['batch_size']}",
        f"{settings['min_steps']} steps at least",
        *_rates(settings),
        f"weight decay {settings['weight_decay']:g}",
        f"{'live' if settings['live_batchnorm'] else 'frozen'} BatchNorm",
        ("both strands" if both else "one strand") + tried,
        f"shift {settings['shift_bp']} bp",
        f"{'' if settings['class_weights'] else 'no '}class weights",
        f"early stopping after {patience} epochs" if patience else "no early stopping",
    ]
    if "vocabulary" in settings:  # encoders of tokens have none
        words.remove("frozen BatchNorm")
    return ", ".join(words)


def _rates(settings: Mapping[str, Any]) -> list[str]:
    """Peak learning rates: of what was pretrained, of the last layer, of a new species."""
    tried, of_head = settings["tried"], f"last layer {settings['head_lr']:g}"
    if settings["mode"] == "head":
        return [of_head + (f" (best of {len(tried)} rates)" if tried else "")]
    chosen = f" (of {', '.join(f'{float(rate):g}' for rate in tried)})" if tried else ""
    rates = [f"rate {settings['rate']:g}{chosen}", of_head]
    if "like" in settings and "species_lr" in settings:
        rates.append(f"new species {settings['species_lr'] or settings['head_lr']:g}")
    return rates


def seen_note(seen: Seen | None) -> str:
    """What is to be said below a table of pretrained weights of what they have seen."""
    return NOT_LOOKED_AT if seen is None else seen.in_words()


def _of_choices(settings: Mapping[str, Any]) -> list[str]:
    """Which strands were read; and that a better learning rate may lie beyond those tried."""
    if "tried" not in settings:  # a method whose rate is its own affair
        return []
    strands = ["reads both strands"] if settings["strands"] == "both" else []
    return strands + _of_rates(settings)


def _of_rates(settings: Mapping[str, Any]) -> list[str]:
    of_trained = settings["head_lr" if settings["mode"] == "head" else "lr"]
    tried = [float(rate) for rate in settings["tried"]]
    if not tried:
        return [f"one learning rate, {of_trained:g}; none other was tried"]
    for limit, end in ((min(tried), "smallest"), (max(tried), "largest")):
        if settings["rate"] == limit:
            return [f"validation chose the {end} learning rate of those tried, {of_trained:g}"]
    return []


def task_lines(table: TaskTable) -> list[str]:
    """The results of one task in Markdown."""
    task, metric = table.task, table.metric_name
    numbers = " · ".join(f"{number:,} {split}" for split, number in table.num.items())
    found = [
        f"### {table.title}",
        "",
        f"{', '.join(task.outputs) if len(task.outputs) < 6 else f'{len(task.outputs)} outputs'}; "
        f"{numbers} sequences of {_lengths(task)} bp.",
        "",
        f"| | seeds | {metric} | 95 % interval | without copies ({table.num_unique:,}) | "
        f"{f'not seen ({len(table.seen.unseen):,}) | ' if table.seen else ''}"
        "model less this | p | s |",
        "|---|---|---|---|---|---|---|---|" + ("---|" if table.seen else ""),
    ]
    for line in table.lines:
        found.append(
            f"| {line.method} | {len(line.scores)} | {mean_sd(line.scores)} | "
            f"{_interval(line.interval)} | {mean_sd([line.unique])} | "
            f"{_unseen(line) if table.seen else ''}{_difference(line.less)} | "
            f"{f'{line.less.p:.3f}' if line.less else ''} | {line.seconds:.0f} |"
        )
    remarks = [f"{line.method}: {remark}" for line in table.lines for remark in line.remarks]
    if differ := [line for line in table.lines if line.less_unique and table.has_copies]:
        without = [
            f"{line.method} {_difference(line.less_unique)}, p {line.less_unique.p:.3f}"
            for line in differ
            if line.less_unique
        ]
        remarks.insert(0, f"{table.lines[0].method} less, without copies: {'; '.join(without)}")
    notes = [*task.notes, seen_note(table.seen)]
    if table.of_model:
        notes.append(f"{table.lines[0].method}: {table.of_model}")
    if (known := published(task)) is not None:
        if metric_of_suite(task) == table.metric:
            notes.append(f"{metric}, as {known.suite} scores its task of this name (--metric)")
        notes += [known.in_words(task), f"SPACE's protocol: {known.protocol}"]
    if table.recipe:
        notes.append(f"ours: {table.recipe}")
    return [*found, "", *(f"- {text}" for text in [*notes, *remarks])]


def suite_lines(tables: Sequence[TaskTable]) -> list[str]:
    """All tasks in one table: the model beside the best of the others, tested together.

    The best is chosen on the test split: that it is above the model counts once for each of those
    that could have been chosen.
    """
    compared = [(t, t.best_other) for t in tables if t.best_other is not None]
    rivals = [len(table.lines) - 1 for table, _ in compared]
    p_values = holm(
        [_p_of_best(other.less, of) for (_, other), of in zip(compared, rivals, strict=True)]
    )
    without = holm(
        [_p_of_best(other.less_unique, of) for (_, other), of in zip(compared, rivals, strict=True)]
    )
    found = [
        "| task | metric | model | best of the others | difference | p, all tasks | |",
        "|---|---|---|---|---|---|---|",
    ]
    for (table, other), p, p_unique in zip(compared, p_values, without, strict=True):
        found.append(
            f"| {table.title} | {NAMES.get(table.metric, table.metric)} | "
            f"{mean_sd(table.lines[0].scores)} | {other.method} {mean_sd(other.scores)} | "
            f"{_difference(other.less)} | {p:.3f} | "
            f"{verdict((other.less, p), (other.less_unique, p_unique))} |"
        )
    return found


def verdict(whole: tuple[Difference | None, float], unique: tuple[Difference | None, float]) -> str:
    """What a difference and its p say, and where they say something else without copies, both."""
    said, without = _said(*whole), _said(*unique)
    if said == without:
        return said
    return f"{said}; without copies {without} ({_difference(unique[0])}, p {unique[1]:.3f})"


def _said(difference: Difference | None, p: float) -> str:
    if difference is None or p >= ALPHA:
        return "not distinguishable"
    return "better" if difference.value > 0 else "worse"


def _p_of_best(less: Difference | None, rivals: int) -> float:
    if less is None:
        return 1.0
    return less.p if less.value > 0 else min(1.0, rivals * less.p)


def describe(task: Task, report: DuplicateReport) -> list[str]:
    """What is to be known of a task before it is believed."""
    lines = [f"{task.name}: {note}" for note in task.notes]
    for first, second in report.between:
        examples, other = task.splits[second], task.splits[first]
        if number := int(copied(examples, [other]).sum()):
            element = ", or their elements are" if examples.groups else ""
            lines.append(
                f"{task.name}: {number} of {len(examples)} {second} sequences are in "
                f"{first}, too{element}"
            )
    contradictory = report.within["train"].contradictory.either_strand
    if contradictory:
        lines.append(f"{task.name}: {contradictory} training sequences have two answers")
    return lines


def _lengths(task: Task) -> str:
    lengths = np.concatenate([examples.lengths for examples in task.splits.values()])
    low, high = int(lengths.min()), int(lengths.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _unseen(line: Line) -> str:
    return "| " if line.unseen is None else f"{line.unseen:.3f} | "


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return (
        f"{difference.value:+.3f} [{difference.interval.low:+.3f}, {difference.interval.high:+.3f}]"
    )
