"""Options of commands that choose splits."""

import argparse
from dataclasses import fields
from typing import Any

from spacescale.arguments import listed_names, path_option
from spacescale.splits.options import SplitOptions


def add_split_options(parser: argparse.ArgumentParser, windows: bool) -> None:
    """Add the options of SplitOptions. windows: `--windows`, too, for sets that have targets."""
    default = SplitOptions
    ways = "four" if windows else "three"
    add = parser.add_argument_group(f"splits, one of {ways} ways").add_argument
    for split, use in (("valid", "held out"), ("test", "held out"), ("train", "default: the rest")):
        add(
            f"--{split}-chroms",
            type=listed_names,
            default=(),
            metavar="A,B",
            help=f"contigs, {use}",
        )
    what = "to tile" if windows else "of a contig"
    add("--contigs", type=path_option, metavar="BED",
        help=f"or: chrom start end split, stretches {what}")  # fmt: skip
    if windows:
        add("--windows", type=path_option, metavar="BED",
            help="or: chrom start end split of windows, targets at the centre")  # fmt: skip
    for split in ("valid", "test"):
        add(f"--{split}-folds", type=listed_names, default=(), metavar="A,B",
            help=f"folds of the BED that become {split}; all others train")  # fmt: skip
    add("--random-blocks", type=int, metavar="BP", help="or: blocks of BP dealt at random")
    add("--split-seed", type=int, default=default.split_seed, metavar="N",
        help="of the blocks, default %(default)s")  # fmt: skip
    for split in ("valid", "test"):
        add(f"--{split}-share", type=float, default=getattr(default, f"{split}_share"),
            metavar="X", help="of the blocks' bases, default %(default)s")  # fmt: skip
    what = "leave out targets" if windows else "exclude bases"
    add("--margin", type=int, default=default.margin, metavar="BP",
        help=f"{what} nearer than this to another split, train first")  # fmt: skip


def take_split_options(given: dict[str, Any]) -> SplitOptions:
    """Take the options that `add_split_options` has added out of the parsed arguments."""
    names = [field.name for field in fields(SplitOptions) if field.name in given]
    return SplitOptions(**{name: given.pop(name) for name in names})
