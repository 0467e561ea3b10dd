"""`spacescale ablate`: arms trained side by side with several seeds, and compared."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from spacescale.arguments import path_option

HANGUP = 129  # exit status: 128 + SIGHUP


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("overrides", nargs="*", metavar="section.field=value",
                        help="of every arm, as in training")  # fmt: skip
    parser.add_argument("--arms", nargs="+", default=["table4"], metavar="ARM",
                        help="table4 (default), moe-dense, single arms of table4, or yours: "
                        "NAME=section.field=value,…; the others less the first")  # fmt: skip
    parser.add_argument("--data", type=path_option, nargs="+", default=[],
                        help="species folders (default: the embedded data)")  # fmt: skip
    parser.add_argument("--out", type=path_option, default=Path("runs/ablation"),
                        help="folder of runs and results (default: %(default)s)")  # fmt: skip
    parser.add_argument("--preset", help="default: space_demo for the embedded data, space_tiny "
                        "for yours")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--null", action="store_true",
                        help="one more arm: the first again, with other seeds")  # fmt: skip
    parser.add_argument("--lr", type=float, nargs="+", default=[], metavar="RATE",
                        help="of several the one that validates best with the first seed, for each "
                        "arm by itself (default: the preset's, a third of it and three times it); "
                        "a single one is tuned for none")  # fmt: skip
    parser.add_argument("--equal", choices=("steps", "flops"), default="steps",
                        help="what all arms get the same of (default: %(default)s)")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="runs at once, each on its share of cores or GPUs; with --only and "
                        "--slurm a run has all of its machine")  # fmt: skip
    parser.add_argument("--deepspeed", type=path_option, default=Path("ds_configs/zero2_moe.json"),
                        help="DeepSpeed's JSON (default: %(default)s)")  # fmt: skip
    parser.add_argument("--both-strands", action="store_true", help="as in evaluate")
    parser.add_argument("--baseline", choices=("cnn",), help="as in evaluate; a run's seed is its "
                        "baseline's, too")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--slurm", action="store_true",
                      help="run nothing: print a script that submits a job array")  # fmt: skip
    what.add_argument("--only", type=int, metavar="K", help="make the K-th run alone, from 1")
    what.add_argument("--tables", action="store_true", help="train nothing: compare what is there")


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; `data` and `preset` are given by now.

    Raises UserError for bad options, and at the end for runs that failed.
    """
    from spacescale.ablation import slurm
    from spacescale.ablation.jobs import shares
    from spacescale.ablation.plan import keep_settings
    from spacescale.ablation.settings import read_plan
    from spacescale.ablation.work import Work

    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # the terminal is gone; not under nohup
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(HANGUP))
    plan = read_plan(args)
    keep_settings(plan)
    if args.slurm:
        print(slurm.script(plan, sys.argv[1:]))
        return 0
    alone = args.only is not None or args.tables  # nothing runs beside it
    work = Work(plan, shares(1 if alone else args.jobs))
    if args.only is not None:
        work.make_one(args.only)
    elif not args.tables:
        work.make_all()
    if args.only is None:
        print(work.report())
    work.require_no_failures()
    return 0
