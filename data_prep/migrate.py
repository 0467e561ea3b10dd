"""Bring species datasets of an older format version to the current one, in place."""

import argparse
import sys

from spacescale import console
from spacescale.data.manifest import find_species
from spacescale.data.migrate import migrate
from spacescale.data.shard_reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.named_files import path_option


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folders",
        nargs="+",
        type=path_option,
        metavar="DIR",
        help="a dataset, or a folder of datasets",
    )
    try:
        for folder in parser.parse_args().folders:
            for species in find_species(folder):
                changed = migrate(species)
                SpeciesData.open(species)
                print(f"{species}: {'migrated' if changed else 'has the current version already'}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, goes_on=True))
