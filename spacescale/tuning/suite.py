"""`spacescale finetune` and `spacescale suite`: from options to tables of results."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spacescale.dataset.schema import MANIFEST
from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.parallel import comm
from spacescale.parallel.engine import read_deepspeed_config, resolve_deepspeed_config
from spacescale.tasks.duplicates import find_duplicates
from spacescale.tasks.read_task import read_task, task_name
from spacescale.tasks.scores import main_metric
from spacescale.tasks.suites import find_tasks
from spacescale.tasks.task import Task
from spacescale.tuning.curve import curve_lines, draw_curve
from spacescale.tuning.fractions import parse_fractions
from spacescale.tuning.kept_tables import KeptTables
from spacescale.tuning.pretrained import Weights, load_weights, pretrained_of
from spacescale.tuning.rows import Rows, file_name
from spacescale.tuning.run import BESIDE, Plan, TaskRun
from spacescale.tuning.seen import Seen, Verdicts, read_seen, seen_of
from spacescale.tuning.settings import (
    SEEDS,
    SEEDS_OF_FRACTIONS,
    STRANDS,
    Strands,
    TuningSettings,
    chosen_beside,
    require_metric,
)
from spacescale.tuning.table import TaskTable, describe, suite_lines, table_of, task_lines
from spacescale.tuning.words_by_task import words_by_task

DEEPSPEED: dict[str, Any] = {
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 1, "overlap_comm": False},
    "torch_autocast": "auto",
    "steps_per_print": 1_000_000,
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """What came of the tasks of a command.

    text: on rank 0, tables of all that was made. failures: of a suite, NAME: why not.
    """

    text: str
    failures: list[str]
    num_tasks: int

    def require_no_failures(self) -> None:
        """Raise UserError naming what failed, and that the same command goes on."""
        if self.failures:
            raise UserError(
                f"{len(self.failures)} of {self.num_tasks} tasks failed, the same command tries "
                f"again: {'; '.join(self.failures)}"
            )


def tune(args: argparse.Namespace, device: torch.device) -> Tuned:
    """Do what `finetune` or `suite` was asked for; a command given again goes on.

    Of several tasks those that fail are named and passed over. Raises UserError, on all ranks
    alike, for options, and for a single task.
    """
    tasks, wanted = comm.on_all(lambda: tasks_of(args))
    plans, deepspeed_config = comm.on_all(
        lambda: (plans_of(args, list(tasks), list(wanted)), deepspeed_of(args))
    )
    verdicts = comm.on_all(lambda: read_seen(args.seen, args.weights) if args.seen else None)
    work = _Work(args, tasks, plans, deepspeed_config, device, verdicts)
    if len(wanted) == 1:
        work.make(*next(iter(wanted.items())))
        return Tuned(work.text, [], 1)
    failed: dict[str, str] = {}
    for step in (work.check, work.make):  # what cannot be read is said before hours of training
        for name, path in wanted.items():
            if name not in failed and (why := _failure(step, name, path)):
                failed[name] = why
    failures = [f"{name}: {why}" for name, why in failed.items()]
    return Tuned(work.text, failures, len(wanted))


def tasks_of(args: argparse.Namespace) -> tuple[dict[str, Path], dict[str, Path]]:
    """Name → folder: of all tasks of a suite, and of those that are to be made."""
    if not _is_suite(args):
        alone = {task_name(args.task): args.task}
        return alone, alone
    return find_tasks(args.suite), find_tasks(args.suite, args.tasks)


def _is_suite(args: argparse.Namespace) -> bool:
    return "suite" in args


def _failure(step: Callable[[str, Path], None], name: str, path: Path) -> str | None:
    """Why a step of a task failed, on all ranks alike; None where it did not.

    A UserError is one of all ranks: `comm` carries those that one alone meets, and what is
    computed together fails together. Where a rank ends with a bug the others end, too.
    """
    try:
        step(name, path)
    except comm.OtherRankEnds:
        raise
    except UserError as error:
        if comm.is_main():
            logger.warning("failed: %s: %s", name, error)
        return str(error)
    return None


@dataclass
class _Work:
    """The tasks of a command, one after the other; every rank calls each method.

    tasks: all of the suite; those of `plans` are to be made. text: on rank 0, tables of those that
    are, by this command or by others of the same weights.
    """

    args: argparse.Namespace
    tasks: dict[str, Path]
    plans: dict[str, Plan]
    deepspeed_config: dict[str, Any]
    device: torch.device
    verdicts: Verdicts | None
    results: dict[str, list[TaskTable]] = field(default_factory=dict)
    text: str = ""

    def __post_init__(self) -> None:
        others = {name: path for name, path in self.tasks.items() if name not in self.plans}
        digest = next(iter(self.plans.values())).pretrained.digest
        self.others = KeptTables(others, self.args.out, digest, self._read_kept)

    def check(self, name: str, path: Path) -> None:
        """Raise UserError for what can be told of a task without training."""
        comm.on_all(lambda: main_metric(self._read(name, path).kind, self.args.metric))

    def make(self, name: str, path: Path) -> None:
        """Make the rows of a task that are not there yet, and its tables."""
        task = comm.on_all(lambda: self._read(name, path))
        seen = comm.on_all(lambda: self._look_up(task))
        rows = comm.on_all(lambda: Rows(self.args.out / task.name))
        run = TaskRun(task, self.plans[name], rows, self.deepspeed_config, self.device)
        comm.on_main_only(lambda: _tell(run))
        run.run()
        comm.on_main_only(lambda: self._add(run, seen))

    def _read(self, name: str, path: Path) -> Task:
        return read_task_of(path, self.args, name)

    def _read_kept(self, name: str, path: Path) -> tuple[Task, Seen | None]:
        task = self._read(name, path)
        try:
            return task, self._look_up(task)
        except UserError:  # a report may be of the tasks of this command alone
            return task, None

    def _look_up(self, task: Task) -> Seen | None:
        return None if self.verdicts is None else seen_of(task, self.verdicts, self.args.seen)

    def _add(self, run: TaskRun, seen: Seen | None) -> None:
        plan, chosen = run.plan, run.pretrained.choices
        kept = (run.task, run.rows, run.names, plan.seeds, seen)
        tables = [table_of(*kept, fraction, chosen) for fraction in plan.fractions]
        self.results[run.task.name] = tables
        # Called after the model: tables of others may stand in the same folder.
        model, folder, lines = file_name(run.names[0]), run.rows.folder, lines_of_task(tables)
        curve = folder / f"{model}.png"
        if len(plan.fractions) > 1 and draw_curve(curve, tables):
            lines = [f"![score by share of the training labels]({curve.name})", "", *lines]
        write_text(folder / f"{model}.md", "\n".join(lines))
        found = self.results | self.others.tables(run.names, plan.fractions)
        self.text = "\n".join(lines_of([found[name] for name in self.tasks if name in found]))
        if _is_suite(self.args):  # a single task must not take the place of the table over tasks
            write_text(self.args.out / f"{model}.md", f"{self.text}\n")


def _tell(run: TaskRun) -> None:
    for line in describe(run.task, find_duplicates(run.task)):
        logger.info("%s", line)


def lines_of(results: list[list[TaskTable]]) -> list[str]:
    """All tables, that over the tasks first. results: of each task the tables of its fractions."""
    tables = [table for of_task in results for table in of_task]
    overview = [*suite_lines(tables), ""] if len(tables) > 1 else []
    return overview + [line for of_task in results for line in lines_of_task(of_task)]


def lines_of_task(tables: list[TaskTable]) -> list[str]:
    """The tables of one task, that over its fractions first."""
    curve = [*curve_lines(tables), ""] if len(tables) > 1 else []
    return curve + [line for table in tables for line in [*task_lines(table), ""]]


def plans_of(
    args: argparse.Namespace, tasks: Sequence[str], wanted: Sequence[str]
) -> dict[str, Plan]:
    """The plan of each wanted task; of a suite they differ in species.

    tasks: all there are, so that a pattern may be of some that are not wanted. Raises UserError as
    `plan_of` and `words_by_task`.
    """
    if getattr(args, "suite", None) is None:
        return {name: plan_of(args) for name in wanted}
    species = words_by_task("--species", args.species, tasks)
    weights = load_weights(args)
    new = [name for name in tasks if species[name] not in (None, *weights.species)]
    # What is of new species alone is for their tasks; where there is none, plan_of refuses it.
    of_new = new or tasks
    like = words_by_task("--like", args.like, of_new)
    plans = {}
    for name in wanted:
        values = {"species": species[name], "like": like.get(name)}
        values["species_lr"] = args.species_lr if name in of_new else None
        plans[name] = plan_of(argparse.Namespace(**{**vars(args), **values}), weights, name)
    return plans


def plan_of(
    args: argparse.Namespace, weights: Weights | None = None, task: str = "the task"
) -> Plan:
    """What is to be trained on a task, so named in messages; weights: where they are read already.

    Raises UserError for options that do not fit.
    """
    beside = chosen_beside(args.beside, BESIDE)
    require_metric(args.metric)
    fractions = parse_fractions(args.fractions)
    seeds = args.seeds
    if seeds is None:
        seeds = SEEDS if args.fractions is None else SEEDS_OF_FRACTIONS
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one is needed")
    pretrained = pretrained_of(weights or load_weights(args), args, task)
    rates = tuple(args.lr or pretrained.rates)
    strands: tuple[Strands, ...] = STRANDS if args.strands == "auto" else (args.strands,)
    settings = TuningSettings(
        mode=args.mode,
        layer=args.layer or pretrained.layer,
        pool=args.pool or pretrained.pool,
        lr=rates[0],
        head_lr=args.head_lr,
        species_lr=args.species_lr,
        weight_decay=args.weight_decay,
        batch_size=args.batch,
        epochs=args.epochs,
        patience=args.patience,
        min_steps=args.min_steps,
        shift_bp=args.shift,
        strands=strands[0],
        class_weights=args.class_weights,
        live_batchnorm=args.live_batchnorm,
        lora_rank=args.lora_rank,
        metric=args.metric,
    )
    return Plan(pretrained, settings, rates, strands, tuple(range(seeds)), beside, fractions)


def deepspeed_of(args: argparse.Namespace) -> dict[str, Any]:
    """DeepSpeed's configuration, given or our own; ZeRO-3 keeps no whole weights to test."""
    source = str(args.deepspeed or "the configuration of fine-tuning")
    config = read_deepspeed_config(args.deepspeed) if args.deepspeed else DEEPSPEED
    share = max(1, args.batch // comm.world_size())
    resolved = resolve_deepspeed_config(config, source, share)
    if resolved["zero_optimization"]["stage"] == 3:
        raise UserError(f"{source}: zero_optimization.stage=3; fine-tuning takes 1 or 2")
    if resolved["gradient_accumulation_steps"] != 1:
        raise UserError(f"{source}: gradient_accumulation_steps: fine-tuning takes 1")
    return resolved


def read_task_of(path: Path, args: argparse.Namespace, name: str | None = None) -> Task:
    """The task of a folder, as the options say. Raises UserError as `read_task`."""
    if (path / MANIFEST).is_file():
        raise UserError(
            f"{path} is a species folder: a model learns its tracks by `spacescale/pretrain.py "
            f"--init {args.weights} --only-new --data {path}`; expected a task, with a label per "
            "sequence"
        )
    return read_task(path, genome=args.genome, kind=args.kind, name=name)
