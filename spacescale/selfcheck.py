"""Check training under your own launcher, in minutes: `deepspeed spacescale/selfcheck.py …`.

Also `torchrun … -m spacescale.selfcheck`, `srun … python -m spacescale.selfcheck`, and for one
process plain `python` or `spacescale selfcheck`. Takes the arguments of pretrain.py that decide
how a run lies on the machine. The exit status is 0 only if every check holds.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

# Slow imports stand in the functions: from main's first lines on a signal ends the check in order.
from spacescale.errors import UserError
from spacescale.pretrain import begin, refuse, settings_of_run
from spacescale.train.signals import StopRequest

FAILED = 1  # exit status where a check does not hold


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the check to a command line."""
    parser.add_argument("--deepspeed", type=Path, required=True, help="DeepSpeed's JSON")
    parser.add_argument(
        "--preset", default="space_large", help="whose parallel.* settings (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("selfcheck.md"),
        help="certificate to write, its figures beside it as JSON, on a disk that all processes "
        "see (default: %(default)s)",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # added by deepspeed


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; `section.field=value` overrides may stand anywhere in it."""
    parser = argparse.ArgumentParser(
        prog="selfcheck.py",
        description="Check training under this launcher, on these machines.",
        usage="%(prog)s --deepspeed JSON [--preset P] [--output FILE.md] [section.field=value ...]",
    )
    add_options(parser)
    overrides = [a for a in arguments if re.match(r"[\w.]+=", a)]
    args = parser.parse_args([a for a in arguments if a not in overrides])
    args.overrides = overrides
    return args


def main(arguments: list[str]) -> int:
    """Run one process of the check; returns the exit status."""
    stop = begin()
    return run(parse_arguments(arguments), stop)


def run(args: argparse.Namespace, stop: StopRequest) -> int:
    """Join the other processes and check; returns the exit status."""
    from spacescale.parallel import comm
    from spacescale.parallel.engine import init_distributed, leave
    from spacescale.parallel.watch import Watch
    from spacescale.testing.certify import certify

    settings = settings_of_run(args.preset, args.overrides)
    watch = Watch(stop.leave, settings.hang_timeout_s)
    stop.tell_others, stop.interrupt = watch.tell_stop, watch.interrupt
    with watch:  # once the ranks have met, an error ends all
        try:
            device = init_distributed(settings.start_timeout_s, met=watch.open)
            certificate = certify(args, device, stop, watch)
        except comm.NotMet as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2
        except UserError as error:
            return refuse(error, stop)
        leave()
    return 0 if certificate.holds else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
