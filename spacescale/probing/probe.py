"""`spacescale probe`: from options to a table of results."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.genome.open_genome import open_genome
from spacescale.model.exports import local_folder
from spacescale.model.hybrid import space_alone
from spacescale.predict.trained_model import load_trained
from spacescale.probing.explain import explain
from spacescale.probing.run import BESIDE, ProbePlan, ProbeRun
from spacescale.tasks.duplicates import find_duplicates
from spacescale.tasks.loci import in_genome
from spacescale.tasks.read_task import read_task
from spacescale.tuning.pretrained import PretrainedSpace, weights_digest
from spacescale.tuning.rows import Rows, file_name
from spacescale.tuning.seen import read_seen, seen_of
from spacescale.tuning.settings import chosen_beside, require_metric
from spacescale.tuning.starts import with_species
from spacescale.tuning.table import describe, table_of, task_lines

logger = logging.getLogger(__name__)


def probe(args: argparse.Namespace) -> str:
    """Do what `probe` was asked for; returns the table. A command given again goes on.

    Raises UserError for options, files or sequences that do not fit.
    """
    plan = plan_of(args)
    verdicts = read_seen(args.seen, args.weights) if args.seen else None
    task = read_task(args.task, genome=args.genome, kind=args.kind)
    seen = None if verdicts is None else seen_of(task, verdicts, args.seen)
    if plan.genome is not None:
        task = in_genome(task, plan.genome)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = ProbeRun(task, plan, Rows(args.out / task.name), device)
    for line in describe(task, find_duplicates(task)):
        logger.info("%s", line)
    run.run()
    lines = task_lines(table_of(run.task, run.rows, run.names, plan.seeds, seen))
    name = file_name(plan.pretrained.name)
    lines += explain(run, args.attribute, args.patterns, name)
    text = "\n".join(lines)
    write_text(run.rows.folder / f"{name}.md", text + "\n")
    return text


def plan_of(args: argparse.Namespace) -> ProbePlan:
    """What is probed. Raises UserError for options that do not fit."""
    beside = chosen_beside(args.beside, BESIDE)
    require_metric(args.metric)
    for name in ("seeds", "draws"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: at least one is needed")
    if args.attribute < 0:
        raise UserError(f"--attribute {args.attribute}: expected 0 or more sequences")
    if "genome" in args.feed and not isinstance(args.genome, Path):
        raise UserError("--feed genome: expected --genome, the one FASTA or 2bit of all places")
    trained = load_trained(local_folder(args.weights))
    space = space_alone(trained.model)
    species = with_species(space, args.species, args.like, str(trained.source))
    for layer in args.layer:
        if layer not in space.layers:
            raise UserError(f"--layer {layer}: there are {', '.join(space.layers)}")
    bin_size, window = space.config.bin_size, args.window or space.config.seq_length
    if window < bin_size or window % bin_size:
        raise UserError(f"--window {window}: expected a multiple of the bins of {bin_size} bp")
    name = args.name or args.weights.resolve().name
    return ProbePlan(
        PretrainedSpace(name, space, weights_digest(space), species, args.like),
        tuple(dict.fromkeys(args.layer)),
        tuple(dict.fromkeys(args.feed)),
        tuple(dict.fromkeys(args.heads)),
        tuple(range(args.seeds)),
        args.head_of,
        window,
        args.draws,
        beside,
        args.metric,
        open_genome(args.genome) if "genome" in args.feed else None,
    )
