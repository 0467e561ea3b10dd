"""`spacescale finetune` and `spacescale suite`: from options to tables of results."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
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
from spacescale.tuning.pretrained import load_pretrained
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
    plan, deepspeed_config = comm.on_all(lambda: (plan_of(args), deepspeed_of(args)))
    several = getattr(args, "suite", None)
    folders = comm.on_all(
        lambda: find_tasks(several, args.tasks) if several else {task_name(args.task): args.task}
    )
    verdicts = comm.on_all(lambda: read_seen(args.seen, args.weights) if args.seen else None)
    work = _Work(args, plan, deepspeed_config, device, verdicts)
    if len(folders) == 1:
        work.make(*next(iter(folders.items())))
        return Tuned("\n".join(lines_of(work.results)), [], 1)
    failed: dict[str, str] = {}
    for step in (work.check, work.make):  # what cannot be read is said before hours of training
        for name, path in folders.items():
            if name not in failed and (why := _failure(step, name, path)):
                failed[name] = why
    failures = [f"{name}: {why}" for name, why in failed.items()]
    return Tuned("\n".join(lines_of(work.results)), failures, len(folders))


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
    """The tasks of a command, one after the other; every rank calls each method."""

    args: argparse.Namespace
    plan: Plan
    deepspeed_config: dict[str, Any]
    device: torch.device
    verdicts: Verdicts | None
    results: list[list[TaskTable]] = field(default_factory=list)

    def check(self, name: str, path: Path) -> None:
        """Raise UserError for what can be told of a task without training."""
        comm.on_all(lambda: main_metric(read_task_of(path, self.args, name).kind, self.args.metric))

    def make(self, name: str, path: Path) -> None:
        """Make the rows of a task that are not there yet, and its tables."""
        task = comm.on_all(lambda: read_task_of(path, self.args, name))
        seen = comm.on_all(lambda: self._look_up(task))
        rows = comm.on_all(lambda: Rows(self.args.out / task.name))
        run = TaskRun(task, self.plan, rows, self.deepspeed_config, self.device)
        comm.on_main_only(lambda: _tell(run))
        run.run()
        comm.on_main_only(lambda: self._add(run, seen))

    def _look_up(self, task: Task) -> Seen | None:
        return None if self.verdicts is None else seen_of(task, self.verdicts, self.args.seen)

    def _add(self, run: TaskRun, seen: Seen | None) -> None:
        plan, results = self.plan, self.results
        kept = (run.task, run.rows, run.names, plan.seeds, seen)
        chosen = run.pretrained.choices
        results.append([table_of(*kept, fraction, chosen) for fraction in plan.fractions])
        # Called after the model: tables of others may stand in the same folder.
        model, folder, lines = file_name(run.names[0]), run.rows.folder, lines_of_task(results[-1])
        curve = folder / f"{model}.png"
        if len(plan.fractions) > 1 and draw_curve(curve, results[-1]):
            lines = [f"![score by share of the training labels]({curve.name})", "", *lines]
        write_text(folder / f"{model}.md", "\n".join(lines))
        write_text(self.args.out / f"{model}.md", "\n".join([*lines_of(results), ""]))


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


def plan_of(args: argparse.Namespace) -> Plan:
    """What is to be trained on each task. Raises UserError for options that do not fit."""
    beside = chosen_beside(args.beside, BESIDE)
    require_metric(args.metric)
    fractions = parse_fractions(args.fractions)
    seeds = args.seeds
    if seeds is None:
        seeds = SEEDS if args.fractions is None else SEEDS_OF_FRACTIONS
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least one is needed")
    pretrained = load_pretrained(args)
    rates = tuple(args.lr or pretrained.rates)
    strands: tuple[Strands, ...] = STRANDS if args.strands == "auto" else (args.strands,)
    settings = TuningSettings(
        mode=args.mode,
        layer=args.layer or pretrained.layer,
        pool=args.pool or pretrained.pool,
        lr=rates[0],
        head_lr=args.head_lr,
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
