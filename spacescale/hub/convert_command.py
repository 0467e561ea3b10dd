"""`spacescale convert`: a checkpoint as plain weights, in one of several layouts."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from spacescale.arguments import path_option
from spacescale.errors import UserError

WITHOUT_PROBE = (
    "the checkpoint holds no probe, so that these weights are known to be those that were "
    "saved, but not held against predictions of training (run.probe_every_save keeps some)"
)


def add_to(commands: Any) -> None:
    """Add the command to those of `spacescale`."""
    convert = commands.add_parser("convert", help="export plain PyTorch weights, proved equal")
    convert.add_argument(
        "checkpoint",
        type=path_option,
        help="checkpoint, or run folder (its best); to all but pytorch also an export",
    )
    convert.add_argument(
        "--out", type=path_option, help="folder to make; not needed to push a folder for the Hub"
    )
    convert.add_argument(
        "--to",
        choices=("pytorch", "hub", "released", "dnabert2"),
        default="pytorch",
        help="weights and config.json (default); these with code, proof and card, which "
        "transformers loads, too; the released SPACE's layout, as `export` writes it; or, of a "
        "model of tokens, the names that loaders of DNABERT-2 know",
    )
    convert.add_argument(
        "--push", metavar="ORG/NAME", help="with --to hub: also put the folder onto the Hub"
    )
    convert.add_argument(
        "--private", action="store_true", help="a repository that the push makes is private"
    )
    convert.add_argument(
        "--revision", metavar="BRANCH", help="to push to, made if it is not there (default: main)"
    )
    convert.add_argument(
        "--with-bases",
        action="store_true",
        help="of objective=profiles+bases: keep head and mask code, too, which predict bases that "
        "are hidden; not with --to",
    )
    convert.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert as the options say."""
    from spacescale.checkpoint.convert import convert
    from spacescale.checkpoint.dnabert2 import convert_to_dnabert2
    from spacescale.checkpoint.released import convert_to_released
    from spacescale.hub.export import convert_for_hub
    from spacescale.hub.push import check_name, is_for_the_hub, push
    from spacescale.model.exports import is_export
    from spacescale.predict.trained_encoder import holds_tokens

    source, folder = args.checkpoint, args.out
    if args.push is None and (args.private or args.revision is not None):
        raise UserError("--private and --revision are options of --push")
    if args.push is not None:
        if args.to != "hub":
            raise UserError(f"--push {args.push}: needs --to hub")
        check_name(args.push)
    if args.with_bases and args.to != "pytorch":
        raise UserError(f"--with-bases: not with --to {args.to}, which holds SPACE alone")
    of_tokens = holds_tokens(source)
    if of_tokens and args.to == "released":
        raise UserError(
            f"--to released: the layout of SPACE, and {source} is of tokens; take --to dnabert2"
        )
    if args.to == "dnabert2" and not of_tokens:
        raise UserError(f"--to dnabert2: {source}: expected a run, checkpoint or export of tokens")
    if folder is not None:
        converters = {
            "pytorch": partial(convert, whole=args.with_bases),
            "hub": convert_for_hub,
            "released": convert_to_released,
            "dnabert2": convert_to_dnabert2,
        }
        agreement = converters[args.to](source, folder)
        proved = "" if is_export(source) else f"; {agreement or WITHOUT_PROBE}"
        print(f"{folder}: converted{proved}", flush=True)
    elif args.push is not None and is_for_the_hub(source):
        folder = source
    else:
        raise UserError("--out: needed, unless a folder made by --to hub is pushed")
    if args.push is not None:
        print(f"{args.push}: pushed: {push(folder, args.push, args.private, args.revision)}")
