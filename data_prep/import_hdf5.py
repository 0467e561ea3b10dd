"""HDF5 files in SPACE's layout -> a species dataset, ready for pretraining."""

import argparse
import sys

from spacescale.arguments import path_option
from spacescale.prepare.importers.command import import_options, import_parser, run_import
from spacescale.prepare.importers.import_dataset import ImportOptions
from spacescale.prepare.importers.source import ImportSource
from spacescale.prepare.importers.space_hdf5 import SpaceHdf5, files_by_split

EPILOG = """files:
  One file a split, with `sequences` [windows, bases, 4] and `targets` [windows, bins, tracks]; the
  name ends in the split (human_train.h5), or write train=FILE. The BED lists chrom start end split,
  those of a split in the order of its rows.
  With --fasta every sequence is compared with the genome, which is then stored whole, so that any
  input length is possible; without it the sequences of the files are stored.

example:
  python data_prep/import_hdf5.py human_train.h5 human_valid.h5 human_test.h5 --species human \\
      --windows sequences.bed --targets targets_human.txt --bin-size 128 --out datasets
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; see `--help`."""
    parser = import_parser(__doc__ or "", EPILOG)
    parser.add_argument("files", nargs="+", metavar="[SPLIT=]FILE", help="HDF5, one a split")
    parser.add_argument("--targets", type=path_option, required=True, help="targets table")
    parser.add_argument("--windows", type=path_option, help="BED of the windows")
    parser.add_argument("--bin-size", type=int, required=True, help="bp; the files do not tell")
    return parser.parse_args(arguments)


def prepare() -> tuple[ImportOptions, ImportSource]:
    """Return options and source of the command line."""
    given = vars(parse_arguments())
    files, bin_size = files_by_split(given.pop("files")), given.pop("bin_size")
    return import_options(given), SpaceHdf5(files, bin_size)


if __name__ == "__main__":
    sys.exit(run_import(prepare))
