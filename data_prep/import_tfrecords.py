"""TFRecords of Basenji, Enformer or Borzoi -> a species dataset, ready for pretraining."""

import argparse
import sys

from spacescale.arguments import path_option
from spacescale.prepare.importers.basenji import BasenjiSet
from spacescale.prepare.importers.command import import_options, import_parser, run_import
from spacescale.prepare.importers.import_dataset import ImportOptions
from spacescale.prepare.importers.source import ImportSource

EPILOG = """files:
  DIR holds statistics.json, sequences.bed, tfrecords/{split}-{i}.tfr and, as a rule, targets.txt.
  With --fasta every sequence is compared with the genome, which is then stored whole, so that any
  input length is possible; without it the sequences of the records are stored.

example:
  python data_prep/import_tfrecords.py human/ --species human --targets targets_human.txt \\
      --fasta hg38.fa.gz --seq-length 196608 --out datasets
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; see `--help`."""
    parser = import_parser(__doc__ or "", EPILOG)
    parser.add_argument("folder", type=path_option, metavar="DIR", help="folder of the set")
    parser.add_argument(
        "--targets", type=path_option, help="targets table, default DIR/targets.txt"
    )
    parser.add_argument("--windows", type=path_option, help="BED, default DIR/sequences.bed")
    return parser.parse_args(arguments)


def prepare() -> tuple[ImportOptions, ImportSource]:
    """Return options and source of the command line."""
    given = vars(parse_arguments())
    folder = given.pop("folder")
    given["targets"] = given["targets"] or folder / "targets.txt"
    given["windows"] = given["windows"] or folder / "sequences.bed"
    return import_options(given), BasenjiSet(folder)


if __name__ == "__main__":
    sys.exit(run_import(prepare))
