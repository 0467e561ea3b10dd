"""Pretrain a model: `deepspeed spacescale/pretrain.py --deepspeed ds_configs/zero2_moe.json`.

Also under torchrun and srun, and with plain `python` for one process. README.md shows the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# Slow imports stand in the functions: from main's first lines on a signal ends the run in order.
from spacescale import console
from spacescale.errors import UserError
from spacescale.parallel.starters import StarterGone, end_with_starters
from spacescale.train.signals import StopRequest

if TYPE_CHECKING:
    from spacescale.config import RunConfig


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; `section.field=value` overrides may stand anywhere in it."""
    from spacescale.presets import DEFAULT_PRESET, EMBEDDED_PRESET, PRESETS

    parser = argparse.ArgumentParser(
        prog="pretrain.py",
        description="Pretrain a model on species data sets.",
        usage="%(prog)s --deepspeed JSON [--preset P] [--data DIR ...] [--output DIR] "
        "[--init WEIGHTS [--only-new] [--like SPECIES] [--own-experts N]] [--freeze PATTERN ...] "
        "[--resume auto|must|PATH] [section.field=value ...]",
    )
    parser.add_argument("--deepspeed", type=Path, required=True, help="DeepSpeed's JSON")
    parser.add_argument(
        "--preset",
        help=f"{', '.join(PRESETS)} (default: {EMBEDDED_PRESET} for the embedded data, "
        f"{DEFAULT_PRESET} for yours)",
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], help="species folders made by shard.py"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/pretrain"), help="run folder")
    parser.add_argument(
        "--resume",
        help="'auto': go on from the newest sound checkpoint, or begin where there never was one; "
        "'must': fail if there is none; PATH: from that checkpoint or run; one of this run's own "
        "goes back to it",
    )
    parser.add_argument(
        "--init",
        type=Path,
        help="begin with the weights of an export, a checkpoint, a run (its best) or ORG/NAME of "
        "the Hub: species, tracks and profile types are matched by name",
    )
    parser.add_argument(
        "--only-new",
        action="store_true",
        help="train what these weights lack, and nothing else: their species stay in the model, "
        "need no data and predict what they did, bit for bit, which is proved at the end "
        "(optim.only_new=true)",
    )
    parser.add_argument(
        "--like",
        metavar="SPECIES",
        help="the token and gates of new species begin as those of this one (default: as the mean "
        "of those that the weights know)",
    )
    parser.add_argument(
        "--own-experts",
        type=int,
        metavar="N",
        help="give every new species N experts of its own in each block, which begin as copies of "
        "those that all share (model.own_experts)",
    )
    parser.add_argument(
        "--freeze",
        nargs="+",
        metavar="PATTERN",
        help="do not train parameters with these names, as 'stem' or '*.router.*' (optim.freeze)",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # added by deepspeed
    overrides = [a for a in arguments if re.match(r"[\w.]+=", a)]
    args = parser.parse_args([a for a in arguments if a not in overrides])
    args.overrides = overrides
    if args.freeze:
        args.overrides.append(f"optim.freeze={json.dumps(args.freeze)}")
    if args.only_new:
        args.overrides.append("optim.only_new=true")
    return args


def settings_of_run(preset: str, overrides: list[str]) -> RunConfig:
    """What start-up needs to know; what is wrong here is said when all ranks have come."""
    from spacescale.config import RunConfig
    from spacescale.overrides import build_config

    try:
        return build_config(preset, overrides).run
    except UserError:
        return RunConfig()


def refuse(error: UserError, stop: StopRequest) -> int:
    """Say once what every rank has found wrong; returns the exit status."""
    from spacescale.parallel import comm
    from spacescale.parallel.engine import leave

    if comm.is_main():
        print(f"error: {error}", file=sys.stderr, flush=True)
        if stop.record is not None:
            with contextlib.suppress(OSError):
                stop.record.end("failed", error=str(error))
    leave()
    return 2


def begin() -> StopRequest:
    """Make this process heed signals and end with its launchers; ends it if one has ended."""
    console.prepare(goes_on=True)
    stop = StopRequest()
    try:
        end_with_starters()
    except StarterGone as gone:
        rank = os.environ.get("RANK", "0")
        print(f"error: rank {rank}: {gone} that started it is gone", file=sys.stderr, flush=True)
        sys.exit(1)
    return stop


def main(arguments: list[str]) -> int:
    """Run one training process; returns the exit status."""
    stop = begin()
    args = parse_arguments(arguments)
    stop.output = args.output
    from spacescale.overrides import build_config
    from spacescale.parallel import comm
    from spacescale.parallel.agreement import require_agreement
    from spacescale.parallel.engine import init_distributed, leave
    from spacescale.parallel.watch import Watch
    from spacescale.presets import DEFAULT_PRESET, EMBEDDED_PRESET
    from spacescale.testing.embedded_data import embedded_data
    from spacescale.train.run import prepare

    preset = args.preset or (DEFAULT_PRESET if args.data else EMBEDDED_PRESET)
    settings = settings_of_run(preset, args.overrides)
    watch = Watch(stop.leave, settings.hang_timeout_s)
    stop.tell_others, stop.interrupt = watch.tell_stop, watch.interrupt
    with watch:  # once the ranks have met, an error ends all
        try:
            device = init_distributed(settings.start_timeout_s, met=watch.open)
            config = comm.on_all(lambda: build_config(preset, args.overrides))
            named = {
                "--output": str(args.output),
                "--resume": args.resume,
                "--init": args.init and str(args.init),
                "--like": args.like,
                "--own-experts": args.own_experts,
            }
            require_agreement({"--data": "given" if args.data else "left out", **named})
            paths = args.data or [Path(comm.on_main(lambda: str(embedded_data())))]
            begins = (args.init, args.like, args.own_experts)
            places = (args.deepspeed, args.output, args.resume)
            run = prepare(config, paths, *places, device, stop, watch, *begins)
        except comm.NotMet as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2
        except UserError as error:
            return refuse(error, stop)
        watch.follow(run.trainer.engine)
        run.trainer.manager.while_waiting = watch.note_progress
        stop.training = True
        run.trainer.fit(run.first_step)
        leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
