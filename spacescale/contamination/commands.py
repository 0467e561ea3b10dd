"""The command `spacescale contamination`: its options."""

from __future__ import annotations

import argparse

from spacescale.arguments import path_option
from spacescale.errors import UserError
from spacescale.tasks.genome_option import add_genome_option


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the `spacescale` command."""
    command = commands.add_parser(
        "contamination", help="say which sequences of a benchmark training has seen, or their like"
    )
    command.add_argument(
        "weights",
        type=path_option,
        help="run folder (its best checkpoint), checkpoint, export or ORG/NAME of the Hub",
    )
    command.add_argument(
        "--sequences",
        type=path_option,
        nargs="+",
        required=True,
        metavar="FILE|FOLDER",
        help="FASTA, 2bit, or a table with a column `sequence` or `seq`; an .h5 or folder of a "
        "task, or a folder of several",
    )
    add_genome_option(command)
    command.add_argument(
        "--kind", choices=("classes", "labels", "values"), help="of tasks, as for `finetune`"
    )
    command.add_argument(
        "--data", type=path_option, nargs="+", default=[], help="default: the run's"
    )
    command.add_argument(
        "--steps", type=int, help="what the run had read after so many (default: at the checkpoint)"
    )
    command.add_argument(
        "--identity",
        type=float,
        default=0.8,
        help="from which a sequence counts as seen (default: %(default)s)",
    )
    command.add_argument(
        "--cover",
        type=float,
        default=0.5,
        help="share of its bases that must be aligned (default: %(default)s)",
    )
    command.add_argument(
        "--out", type=path_option, help="table to make, a row each: .tsv or .parquet"
    )
    command.set_defaults(run=_contamination)


def _contamination(args: argparse.Namespace) -> None:
    from spacescale.contamination.report import contamination
    from spacescale.contamination.verdicts import Limits

    if args.steps is not None and args.steps < 0:
        raise UserError(f"--steps {args.steps}: must be 0 or more")
    limits = Limits(args.identity, args.cover)
    places = (args.data, args.out, args.steps)
    print(contamination(args.weights, args.sequences, *places, limits, args.genome, args.kind))
