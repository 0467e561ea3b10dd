"""The `spacescale` command: evaluate, convert, info."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from spacescale import __version__
from spacescale.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    """The command line of `spacescale`."""
    parser = argparse.ArgumentParser(prog="spacescale", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True)

    evaluate = commands.add_parser("evaluate", help="score a model on held-out windows")
    evaluate.add_argument("path", type=Path, help="run folder, checkpoint or export")
    evaluate.add_argument("--data", type=Path, nargs="+", default=[], help="default: the run's")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument(
        "--out", type=Path, help="default: evaluation/SPLIT in the run folder or export"
    )
    evaluate.add_argument(
        "--both-strands", action="store_true", help="average predictions for both strands"
    )
    evaluate.set_defaults(run=_evaluate)

    convert = commands.add_parser("convert", help="export plain PyTorch weights, proved equal")
    convert.add_argument("checkpoint", type=Path, help="checkpoint, or run folder (its best)")
    convert.add_argument("--out", type=Path, required=True, help="folder to make")
    convert.set_defaults(run=_convert)

    info = commands.add_parser("info", help="say what a run, checkpoint, export or data set holds")
    info.add_argument("path", type=Path)
    info.set_defaults(run=_info)
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    from spacescale.evals.evaluation import evaluate

    print(evaluate(args.path, args.data, args.split, args.out, args.both_strands))


def _convert(args: argparse.Namespace) -> None:
    from spacescale.checkpoint.convert import convert

    difference = convert(args.checkpoint, args.out)
    print(
        f"{args.out}: converted; predictions equal the checkpoint's own to {difference:.1e} "
        "of their maximum"
    )


def _info(args: argparse.Namespace) -> None:
    from spacescale.evals.info import describe

    print(describe(args.path))


def main() -> int:
    """Entry point; returns the exit status: 2 for bad input, whose message goes to stderr."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args = build_parser().parse_args()
    try:
        args.run(args)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
