"""`spacescale finetune` and `spacescale suite`: from options to tables of results."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from spacescale.dataset.schema import MANIFEST
from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.parallel import comm
from spacescale.parallel.engine import read_deepspeed_config, resolve_deepspeed_config
from spacescale.tasks.duplicates import find_duplicates
from spacescale.tasks.read_task import read_task, task_name, tasks_below
from spacescale.tasks.scores import main_metric
from spacescale.tasks.task import Task
from spacescale.tuning.curve import curve_lines, draw_curve
from spacescale.tuning.fractions import parse_fractions
from spacescale.tuning.pretrained import load_pretrained
from spacescale.tuning.rows import Rows, file_name
from spacescale.tuning.run import BESIDE, Plan, TaskRun
from spacescale.tuning.seen import Seen, read_seen, seen_of
from spacescale.tuning.settings import (
    STRANDS,
    Strands,
    TuningSettings,
    chosen_beside,
    require_metric,
)
from spacescale.tuning.table import TaskTable, describe, suite_lines, table_of, task_lines

SEEDS, SEEDS_OF_FRACTIONS = 5, 3  # where --seeds says nothing
DEEPSPEED: dict[str, Any] = {
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 1, "overlap_comm": False},
    "torch_autocast": "auto",
    "steps_per_print": 1_000_000,
}
logger = logging.getLogger(__name__)


def tune(args: argparse.Namespace, device: torch.device) -> str:
    """Do what `finetune` or `suite` was asked for; returns, on rank 0, a table of all results.

    A command given again goes on where it was stopped. Raises UserError, on all ranks alike.
    """
    plan, deepspeed_config = comm.on_all(lambda: (plan_of(args), deepspeed_of(args)))
    several = getattr(args, "suite", None)
    folders = comm.on_all(
        lambda: find_tasks(several, args.tasks) if several else {task_name(args.task): args.task}
    )
    verdicts = comm.on_all(lambda: read_seen(args.seen) if args.seen else None)
    if len(folders) > 1:
        comm.on_all(lambda: require_readable(folders, args))
    results: list[list[TaskTable]] = []

    def add(run: TaskRun, seen: Seen | None) -> None:
        results.append(
            [table_of(run.task, run.rows, run.names, plan.seeds, seen, f) for f in plan.fractions]
        )
        # Called after the model: tables of others may stand in the same folder.
        model, folder, lines = file_name(run.names[0]), run.rows.folder, lines_of_task(results[-1])
        curve = folder / f"{model}.png"
        if len(plan.fractions) > 1 and draw_curve(curve, results[-1]):
            lines = [f"![score by share of the training labels]({curve.name})", "", *lines]
        write_text(folder / f"{model}.md", "\n".join(lines))
        write_text(args.out / f"{model}.md", "\n".join([*lines_of(results), ""]))

    def look_up(task: Task) -> Seen | None:
        return None if verdicts is None else seen_of(task, verdicts, args.seen)

    for name, path in folders.items():
        task = comm.on_all(lambda path=path, name=name: read_task_of(path, args, name))
        seen = comm.on_all(lambda t=task: look_up(t))
        folder = args.out / task.name
        run = TaskRun(task, plan, comm.on_all(lambda f=folder: Rows(f)), deepspeed_config, device)
        if comm.is_main():
            for line in describe(run.task, find_duplicates(task)):
                logger.info("%s", line)
        run.run()
        comm.on_main_only(lambda r=run, s=seen: add(r, s))
    return "\n".join(lines_of(results))


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


def find_tasks(folder: Path, wanted: list[str] | None) -> dict[str, Path]:
    """Name → folder, of the tasks below a folder of which one of the patterns is the name.

    Tasks of one name are called by their path.
    """
    paths = tasks_below(folder)
    names = [task_name(path) for path in paths]
    found = {
        name if names.count(name) == 1 else "_".join(path.relative_to(folder).parts): path
        for name, path in zip(names, paths, strict=True)
    }
    if wanted:
        found = {n: p for n, p in found.items() if any(fnmatchcase(n, one) for one in wanted)}
    if not found:
        raise UserError(f"{folder}: no task in it of {', '.join(wanted or [])}")
    return found


def require_readable(folders: Mapping[str, Path], args: argparse.Namespace) -> None:
    """Raise UserError for what would stop a suite at a later task."""
    for name, path in folders.items():
        main_metric(read_task_of(path, args, name).kind, args.metric)


def read_task_of(path: Path, args: argparse.Namespace, name: str | None = None) -> Task:
    """The task of a folder, as the options say. Raises UserError as `read_task`."""
    if (path / MANIFEST).is_file():
        raise UserError(
            f"{path} is a species folder: a model learns its tracks by `spacescale/pretrain.py "
            f"--init {args.weights} --only-new --data {path}`; expected a task, with a label per "
            "sequence"
        )
    return read_task(path, genome=args.genome, kind=args.kind, name=name)
