"""FASTA + BigWigs + targets table -> a species dataset, ready for pretraining."""

import argparse
import signal
import sys
import time
from pathlib import Path

from spacescale.data.shard_options import ShardOptions
from spacescale.data.shard_reader import SpeciesData
from spacescale.data.shard_writer import shard_species
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.genome.transforms import TRANSFORMS

EPILOG = """splits:
  Name the held-out contigs with --valid-chroms and --test-chroms, or give --contigs. With none of
  them two whole contigs are held out: of those that every track has, the two whose lengths are
  nearest to 10 % of the total, the nearest as test.

example:
  python data_prep/shard.py --species yeast --fasta sacCer3.fa.gz --targets targets.txt \\
      --aliases auto --valid-chroms chrII --test-chroms chrXVI --out datasets
"""


def parse_options(arguments: list[str] | None = None) -> ShardOptions:
    """Return the options of the command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ShardOptions
    add = parser.add_argument
    add("--species", required=True, help="name of the dataset's folder under --out")
    add("--fasta", required=True, type=Path, help="genome: FASTA, plain or .gz, or .2bit")
    add("--targets", required=True, type=Path, help="targets table, tab separated")
    add("--out", required=True, type=Path, help="folder to write into")
    add("--seq-length", type=int, default=default.seq_length, help="bp, default %(default)s")
    add("--bin-size", type=int, default=default.bin_size, help="bp, default %(default)s")
    add(
        "--target-length", type=int, default=default.target_length, help="bins, default %(default)s"
    )
    add("--stride", type=int, help="bp between windows, default one target: they tile")
    add("--transform", choices=sorted(TRANSFORMS), default=default.transform)
    for split, use in (("valid", "held out"), ("test", "held out"), ("train", "default: the rest")):
        add(f"--{split}-chroms", type=_names, default=(), metavar="A,B", help=use)
    add("--contigs", type=Path, metavar="BED", help="instead: chrom start end split to tile")
    add("--aliases", metavar="FILE|auto", help="contig names of tracks and splits -> FASTA")
    add("--workers", type=int, default=default.workers, help="processes, default %(default)s")
    add("--overwrite", action="store_true", help="replace an existing dataset")
    return ShardOptions(**vars(parser.parse_args(arguments)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def print_settings(options: ShardOptions) -> None:
    """Print what will be made, defaults included."""
    print(
        f"{options.species}: input {options.seq_length:,} bp, target {options.target_length} bins "
        f"of {options.bin_size} bp, stride {options.stride or options.span:,} bp, "
        f"transform {options.transform}",
        flush=True,
    )


def print_summary(data: SpeciesData, seconds: float) -> None:
    """Print what was made, what was left out, and what to do next."""
    report = data.manifest.report
    size = sum(entry.bytes for entry in data.manifest.files.values())
    counts = ", ".join(f"{split} {count}" for split, count in data.manifest.num_windows.items())
    lines = {
        "windows": counts,
        "tracks": str(len(data.tracks)),
        "size": f"{size / 2**20:.1f} MiB",
        "time": f"{seconds:.1f} s",
    }
    if data.manifest.aliases:
        lines["renamed"] = shorten([f"{a} = {b}" for a, b in data.manifest.aliases.items()])
    if report.dropped_unknown_bases:
        lines["dropped"] = f"{report.dropped_unknown_bases} windows, target more than half N"
    if report.ambiguous_bases:
        lines["IUPAC"] = f"{report.ambiguous_bases} ambiguity letters read as N"
    if report.contigs_without_tracks:
        lines["no windows"] = _lacking(report.contigs_without_tracks)
    if report.extra_contigs:
        lines["not in FASTA"] = shorten(list(report.extra_contigs))
    if report.too_short:
        lines["too short"] = shorten(report.too_short)
    if report.unassigned:
        lines["in no split"] = shorten(report.unassigned)
    for name, text in lines.items():
        print(f"  {name:<13}{text}")
    for warning in report.warnings:
        print(f"  warning: {warning}")
    train = "deepspeed spacescale/pretrain.py --deepspeed ds_configs/zero2_moe.json"
    print(f"next: {train} --data {data.path}")


def _lacking(contigs: dict[str, list[str]]) -> str:
    tracks = {name: None for names in contigs.values() for name in names}
    return f"{shorten(list(contigs))}: lacking in {shorten(list(tracks))}"


def main() -> int:
    """Run the command; returns the exit status."""
    # A terminated run must take its half-written folder along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.perf_counter()
    try:
        options = parse_options()
        print_settings(options)
        data = SpeciesData.open(shard_species(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted, nothing written", file=sys.stderr)
        return 130
    print_summary(data, time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
