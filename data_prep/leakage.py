"""Species datasets -> what their held-out windows share with training windows."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from spacescale import console
from spacescale.arguments import homology_files, named_paths, path_option
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.schema import SplitOverlap
from spacescale.splits.homology_leakage import HomologyLeak, homology_leaks
from spacescale.splits.leakage import split_overlaps

EPILOG = """exit status:
  0 nothing leaks; 1 a base is in the targets of two splits, or a held-out window has a homologous
  training window; 2 the question could not be answered. Inputs that reach into another split's
  targets are told, and count as no leak: shard.py --margin keeps them apart.

example:
  python data_prep/leakage.py datasets --homology human:mouse=hg38.mm10.net.gz
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", nargs="+", type=path_option, metavar="DIR", help="dataset, or folder of datasets")
    add("--homology", action="append", default=[], metavar="NAME:NAME=FILE",
        help="chain, net or pair table, as split.py takes them")  # fmt: skip
    add("--min-aligned", type=int, default=1, metavar="BP",
        help="aligned bp from which on a window leaks, default %(default)s")  # fmt: skip
    add("--aliases", action="append", default=[], metavar="auto|NAME=FILE",
        help="contig names of homology files -> dataset")  # fmt: skip
    add("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def describe(overlaps: dict[str, list[SplitOverlap]], leaks: list[HomologyLeak]) -> str:
    """Return what was found, for people."""
    lines = [f"{name} {overlap}" for name, found in overlaps.items() for overlap in found]
    lines += [f"{name}: splits share nothing" for name, found in overlaps.items() if not found]
    return "\n".join([*lines, *(str(leak) for leak in leaks)])


def as_json(overlaps: dict[str, list[SplitOverlap]], leaks: list[HomologyLeak]) -> dict[str, Any]:
    """Return what was found, for programs."""
    within = {name: [overlap.model_dump() for overlap in found] for name, found in overlaps.items()}
    return {"within": within, "homology": [asdict(leak) for leak in leaks]}


def main() -> int:
    """Run the command; returns the exit status."""
    given = parse_arguments()
    datasets = open_datasets(given.data)
    overlaps = {
        name: split_overlaps(data.windows.intervals(), data.seq_length)
        for name, data in datasets.items()
    }
    leaks = homology_leaks(
        datasets,
        homology_files(given.homology),
        given.min_aligned,
        named_paths("--aliases", [text for text in given.aliases if text != "auto"]),
        "auto" in given.aliases,
        tell=lambda line: print(f"note: {line}", file=sys.stderr),
    )
    if given.json:
        print(json.dumps(as_json(overlaps, leaks), indent=1))
    else:
        print(describe(overlaps, leaks))
    shared = any(overlap.targets for found in overlaps.values() for overlap in found)
    return 1 if shared or any(leak.leaking for leak in leaks) else 0


if __name__ == "__main__":
    sys.exit(console.run(main))
