"""TFRecords of Basenji, Enformer or Borzoi -> a species dataset, ready for pretraining."""

import argparse
import sys

from spacescale.arguments import path_option
from spacescale.errors import UserError
from spacescale.genome.tracks import read_targets
from spacescale.prepare.importers.basenji import FLOAT_BYTES, SIZE_OPTIONS, BasenjiSet
from spacescale.prepare.importers.command import (
    NO_PLACES,
    import_options,
    import_parser,
    run_import,
)
from spacescale.prepare.importers.import_dataset import ImportOptions
from spacescale.prepare.importers.source import Geometry, ImportSource

EPILOG = """files:
  DIR holds statistics.json, sequences.bed, tfrecords/{split}-{i}.tfr and, as a rule, targets.txt.
  With --fasta every sequence is compared with the genome, which is then stored whole, so that any
  input length is possible; without it the sequences of the records are stored.
  A folder of .tfr files alone, in tfrecords/ or not, is read when their sizes are given:
  --record-length, --bin-size and --target-length in place of statistics.json, --targets TABLE (a
  row per track of the records), and --windows BED, or --no-windows where no BED says where the
  records lie. Splits are then told by the names of the files.

examples:
  python data_prep/import_tfrecords.py human/ --species human --targets targets_human.txt \\
      --fasta hg38.fa.gz --seq-length 196608 --out datasets
  python data_prep/import_tfrecords.py cage/ --species human --targets targets_cage.txt \\
      --record-length 131072 --bin-size 128 --target-length 896 --no-windows --out datasets
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; see `--help`."""
    parser = import_parser(__doc__ or "", EPILOG)
    parser.add_argument("folder", type=path_option, metavar="DIR", help="folder of the set")
    parser.add_argument(
        "--targets", type=path_option, help="targets table, default DIR/targets.txt"
    )
    parser.add_argument("--windows", type=path_option, help="BED, default DIR/sequences.bed")
    sizes = parser.add_argument_group("sizes of a set without statistics.json").add_argument
    sizes("--record-length", type=int, metavar="BP", help="of the sequences in the records")
    sizes("--bin-size", type=int, metavar="BP")
    sizes("--target-length", type=int, metavar="BINS")
    sizes("--target-type", choices=tuple(FLOAT_BYTES), default="float16", help="default float16")
    return parser.parse_args(arguments)


def prepare() -> tuple[ImportOptions, ImportSource]:
    """Return options and source of the command line."""
    given = vars(parse_arguments())
    folder = given.pop("folder")
    sizes = [given.pop(name) for name in ("record_length", "bin_size", "target_length")]
    float_bytes = FLOAT_BYTES[given.pop("target_type")]
    given["targets"] = given["targets"] or folder / "targets.txt"
    given["windows"] = given["windows"] or folder / "sequences.bed"
    if not any(sizes):
        return import_options(given), BasenjiSet(folder)
    if not all(sizes):
        raise UserError(f"{SIZE_OPTIONS} go together")
    if given["no_windows"] is False and not given["windows"].is_file():
        raise UserError(f"{given['windows']} is missing: {NO_PLACES}")
    options = import_options(given)
    num_tracks = len(read_targets(options.targets))
    return options, BasenjiSet(folder, Geometry(*sizes), num_tracks, float_bytes)


if __name__ == "__main__":
    sys.exit(run_import(prepare))
