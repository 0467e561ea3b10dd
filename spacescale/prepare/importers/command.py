"""What the import commands have in common: arguments, messages, exit status."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from spacescale import console
from spacescale.arguments import listed_names, path_option
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.track_selection import track_names
from spacescale.prepare.importers.import_dataset import ImportOptions, import_dataset
from spacescale.prepare.importers.source import ImportSource
from spacescale.prepare.summary import print_summary
from spacescale.prepare.work_folder import WorkFolder

NO_PLACES = (
    "--windows BED tells where the records lie (chrom start end split). Without it there are no "
    "leakage reports and no longer contexts; --no-windows imports all the same"
)


def import_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser of the options of every import."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = ImportOptions
    add = parser.add_argument
    add("--species", required=True, help="name of the dataset's folder under --out")
    add("--out", required=True, type=path_option, help="folder to write into")
    add(
        "--fasta", type=path_option, help="genome to compare with and to store: FASTA, .gz or .2bit"
    )
    add("--tracks", default="", metavar="A,3|@FILE",
        help="identifiers or indices, or a file with one a line; default: all")  # fmt: skip
    add("--seq-length", type=int, metavar="BP",
        help="default that of the set; more needs --fasta")  # fmt: skip
    add("--aliases", metavar="FILE|auto", help="contig names of the BED -> FASTA")
    add("--missing", choices=("zero", "nan"), default=default.missing,
        help="NaN in the set: an error (zero, the default) or not measured (nan)")  # fmt: skip
    add("--valid-folds", type=listed_names, default=(), metavar="A,B", help="folds that validate")
    add("--test-folds", type=listed_names, default=(), metavar="A,B", help="folds that test")
    add("--codec", choices=("pcodec", "zstd", "none"), default=default.codec,
        help="default %(default)s")  # fmt: skip
    add("--windows-per-shard", type=int, default=default.windows_per_shard, metavar="N",
        help="default %(default)s")  # fmt: skip
    add("--workers", type=int, default=default.workers, metavar="N",
        help="processes, default %(default)s")  # fmt: skip
    add("--no-windows", action="store_true", help="import although no BED tells the places")
    add("--overwrite", action="store_true", help="replace an existing dataset")
    return parser


def import_options(arguments: dict[str, Any]) -> ImportOptions:
    """Return the options from parsed arguments, `windows` being told or waived."""
    if arguments.pop("no_windows"):
        arguments["windows"] = None
    elif not arguments["windows"]:
        raise UserError(NO_PLACES)
    arguments["tracks"] = track_names(arguments["tracks"])
    return ImportOptions(**arguments)


def run_import(prepare: Callable[[], tuple[ImportOptions, ImportSource]]) -> int:
    """Import what `prepare` returns and print a summary; returns the exit status."""
    # A terminated run ends its workers, and says how it can be continued.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def command() -> int:
        start = time.perf_counter()
        options, source = prepare()
        _print_settings(options, source)
        try:
            path = import_dataset(options, source, notify=lambda line: print(line, flush=True))
        except (KeyboardInterrupt, SystemExit) as stop:
            print(f"interrupted: {WorkFolder.of(options.target).how_to_go_on()}", file=sys.stderr)
            return 143 if isinstance(stop, SystemExit) else 130
        print_summary(SpeciesData.open(path), time.perf_counter() - start)
        return 0

    return console.run(command, goes_on=True)


def _print_settings(options: ImportOptions, source: ImportSource) -> None:
    shape = source.geometry
    print(
        f"{options.species}: {sum(source.num_records.values()):,} records of {shape.seq_length:,} "
        f"bp, target {shape.target_length} bins of {shape.bin_size} bp, {source.num_tracks} tracks",
        flush=True,
    )
