"""`spacescale finetune` and `spacescale suite`: from options to tables of results."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from spacescale.dataset.schema import MANIFEST
from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.model.exports import local_folder
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.parallel.engine import read_deepspeed_config, resolve_deepspeed_config
from spacescale.predict.trained_model import load_trained
from spacescale.tasks.duplicates import find_duplicates
from spacescale.tasks.read_task import read_task, task_name, tasks_below
from spacescale.tasks.scores import main_metric
from spacescale.tasks.task import Task
from spacescale.tuning.rows import Rows
from spacescale.tuning.run import BESIDE, Plan, Pretrained, TaskRun
from spacescale.tuning.seen import Seen, read_seen, seen_of
from spacescale.tuning.settings import TuningSettings, chosen_beside, require_metric
from spacescale.tuning.starts import with_species
from spacescale.tuning.table import TaskTable, describe, suite_lines, table_of, task_lines

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
    tables: list[TaskTable] = []

    def add(run: TaskRun, seen: Seen | None) -> None:
        tables.append(table_of(run.task, run.rows, run.names, plan.seeds, seen))
        write_text(run.rows.folder / "results.md", "\n".join([*task_lines(tables[-1]), ""]))
        write_text(args.out / "results.md", "\n".join([*lines_of(tables), ""]))

    def look_up(task: Task) -> Seen | None:
        return None if verdicts is None else seen_of(task, verdicts, args.seen)

    for name, path in folders.items():
        task = comm.on_all(lambda path=path, name=name: read_task_of(path, args, name))
        seen = comm.on_all(lambda t=task: look_up(t))
        folder = args.out / task.name
        run = TaskRun(task, plan, comm.on_all(lambda f=folder: Rows(f)), deepspeed_config, device)
        if comm.is_main():
            for line in describe(task, find_duplicates(task)):
                logger.info("%s", line)
        run.run()
        comm.on_main_only(lambda r=run, s=seen: add(r, s))
    return "\n".join(lines_of(tables))


def lines_of(tables: list[TaskTable]) -> list[str]:
    """All tables, that over the tasks first."""
    overview = [*suite_lines(tables), ""] if len(tables) > 1 else []
    return overview + [line for table in tables for line in [*task_lines(table), ""]]


def plan_of(args: argparse.Namespace) -> Plan:
    """What is to be trained on each task. Raises UserError for options that do not fit."""
    beside = chosen_beside(args.beside, BESIDE)
    require_metric(args.metric)
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: at least one is needed")
    settings = TuningSettings(
        mode=args.mode,
        layer=args.layer,
        pool=args.pool,
        lr=args.lr[0],
        head_lr=args.head_lr,
        weight_decay=args.weight_decay,
        batch_size=args.batch,
        epochs=args.epochs,
        patience=args.patience,
        shift_bp=args.shift,
        reverse_complement=args.reverse_complement,
        both_strands=args.both_strands,
        class_weights=args.class_weights,
        live_batchnorm=args.live_batchnorm,
        lora_rank=args.lora_rank,
        metric=args.metric,
    )
    trained = load_trained(local_folder(args.weights))
    species = with_species(trained.model, args.species, args.like, str(trained.source))
    if settings.layer not in trained.model.layers:
        raise UserError(f"--layer {settings.layer}: there are {', '.join(trained.model.layers)}")
    name = args.name or args.weights.resolve().name
    pretrained = Pretrained(name, trained.model, weights_digest(trained.model), species, args.like)
    return Plan(pretrained, settings, tuple(args.lr), tuple(range(args.seeds)), beside)


def weights_digest(space: Space) -> str:
    """Of all weights, by which results of other weights are told apart."""
    found = hashlib.sha256()
    for name, tensor in sorted(space.state_dict().items()):
        flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(name.encode() + flat.numpy().tobytes())
    return found.hexdigest()[:16]


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
