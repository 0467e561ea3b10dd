"""FASTA alone -> a species without tracks, for training on bases or tokens."""

import argparse
import signal
import sys
import time

from spacescale import console
from spacescale.arguments import path_option
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.prepare.genome_dataset import estimate_genome, make_genome
from spacescale.prepare.options import GenomeOptions
from spacescale.prepare.summary import print_genome_estimate, print_genome_summary
from spacescale.prepare.work_folder import WorkFolder
from spacescale.splits.arguments import add_split_options, take_split_options

EPILOG = """splits:
  All contigs are stored; splits say which bases may be trained on, a vocabulary's training
  included, and which are for scores alone. Name the held-out contigs with --valid-chroms and
  --test-chroms, or give --contigs or --random-blocks; a row "excluded" of the BED, and what it
  does not name, is for nothing. With none of them two whole contigs are held out, those whose
  lengths are nearest to 10 % of the total; --all-train holds nothing out.

example:
  python data_prep/genome.py --species paradoxus --fasta paradoxus.fa.gz \\
      --valid-chroms chrII --test-chroms chrXVI --out datasets
"""


def parse_options(arguments: list[str] | None = None) -> tuple[GenomeOptions, bool]:
    """Return the options of the command line and whether only a plan is wanted; see `--help`."""
    parser = argparse.ArgumentParser(
        usage="genome.py --species NAME --fasta GENOME --out DIR [options]",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("input and output").add_argument
    add("--species", required=True, help="name of the dataset's folder under --out")
    add("--fasta", required=True, type=path_option, help="genome: FASTA, plain or .gz, or .2bit")
    add("--out", required=True, type=path_option, help="folder to write into")
    add("--overwrite", action="store_true", help="replace an existing dataset")
    add("--aliases", metavar="FILE|auto", help="contig names of splits -> FASTA")
    add("--plan", action="store_true",
        help="print splits, bytes and time from a sample, and write nothing")  # fmt: skip
    add_split_options(parser, windows=False)
    parser.add_argument("--all-train", action="store_true", help="hold nothing out")
    given = vars(parser.parse_args(arguments))
    plan, splits = given.pop("plan"), take_split_options(given)
    return GenomeOptions(splits=splits, **given), plan


def make(options: GenomeOptions, plan: bool) -> None:
    """Do what was asked for, and print what came of it."""
    start = time.perf_counter()
    print(f"{options.species}: sequence of {options.fasta.name}, no tracks", flush=True)
    if plan:
        print_genome_estimate(estimate_genome(options))
        return
    path = make_genome(options, notify=lambda line: print(line, flush=True))
    print_genome_summary(SpeciesGenome.open(path), time.perf_counter() - start)


def main() -> int:
    """Run the command; returns the exit status."""
    # A terminated run says how it can be continued.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options, plan = parse_options()
    try:
        make(options, plan)
    except (KeyboardInterrupt, SystemExit) as stop:
        print(f"interrupted: {WorkFolder.of(options.target).how_to_go_on()}", file=sys.stderr)
        return 143 if isinstance(stop, SystemExit) else 130
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, goes_on=True))
