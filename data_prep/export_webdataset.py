"""Species datasets -> the same datasets as WebDataset tar shards with an index and checksums."""

import argparse
import signal
import sys
import time

from spacescale import console
from spacescale.arguments import path_option
from spacescale.dataset.manifest import find_species
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.tar_targets import ENDINGS
from spacescale.prepare.summary import print_summary
from spacescale.prepare.tar_export import export_webdataset

INTERRUPTED = "interrupted; the dataset under way was not written"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("source", type=path_option, help="a species folder, or a folder of species folders")
    add("--out", type=path_option, required=True, help="folder to write the species folders into")
    add("--codec", choices=tuple(ENDINGS), default="pcodec", help="default %(default)s")
    add("--windows-per-shard", type=int, default=16, metavar="N", help="default %(default)s")
    add("--workers", type=int, default=1, metavar="N", help="processes, default %(default)s")
    add("--overwrite", action="store_true", help="replace existing datasets")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the command; returns the exit status."""
    # A terminated run must take its half-written folder along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parse_arguments()
    for folder in find_species(args.source):
        start = time.perf_counter()
        target = export_webdataset(
            folder,
            args.out / folder.name,
            codec=args.codec,
            windows_per_shard=args.windows_per_shard,
            workers=args.workers,
            overwrite=args.overwrite,
        )
        print_summary(SpeciesData.open(target), time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, goes_on=True, interrupted=INTERRUPTED))
