"""Genomes -> one BED of splits per species, homologous regions in one split; for shard.py."""

import argparse
import shlex
import sys
from pathlib import Path

from spacescale import console
from spacescale.arguments import homology_files, named_paths, path_option
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.splits.beds import write_split_bed
from spacescale.splits.by_homology import GenomesSplit, SplitSettings, split_genomes

EPILOG = """homology:
  --homology human:mouse=hg38.mm10.net.gz takes a UCSC chain or net, whose target is human and whose
  query is mouse, or a table of homologous regions: chrom start end chrom start end, tabs between.
  --homology human:human=paralogs.tsv ties duplicated regions together.
  Blocks with at least --min-aligned aligned bp between them, over any number of steps and species,
  are one group and go into one split. Where everything hangs together, see --cut-groups.

example:
  python data_prep/split.py --genome human=hg38.fa.gz --genome mouse=mm10.2bit \\
      --homology human:mouse=hg38.mm10.net.gz --out splits
  python data_prep/shard.py --species human --contigs splits/human.bed …
"""


def parse_settings(arguments: list[str] | None = None) -> tuple[SplitSettings, Path, bool]:
    """Return the settings of the command line, the output folder and whether to overwrite."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = SplitSettings
    add = parser.add_argument
    add("--genome", action="append", required=True, metavar="NAME=FASTA", help="FASTA or 2bit")
    add("--homology", action="append", default=[], metavar="NAME:NAME=FILE", help="see below")
    add("--out", required=True, type=path_option, help="folder for NAME.bed")
    add(
        "--block",
        type=int,
        default=default.block_bp,
        metavar="BP",
        help="length of the blocks that are dealt, default %(default)s",
    )
    add("--seed", type=int, default=default.seed, metavar="N", help="default %(default)s")
    for split in ("valid", "test"):
        share = getattr(default, f"{split}_share")
        add(f"--{split}-share", type=float, default=share, metavar="X", help="default %(default)s")
    add(
        "--min-aligned",
        type=int,
        default=default.min_aligned,
        metavar="BP",
        help="aligned bp that tie two blocks together, default %(default)s",
    )
    add(
        "--cut-groups",
        type=int,
        metavar="BP",
        help="cut groups too large for a held-out split into runs of BP, and leave out the "
        "training blocks that are homologous to held-out ones",
    )
    add(
        "--aliases",
        action="append",
        default=[],
        metavar="auto|NAME=FILE",
        help="contig names of homology files -> genome",
    )
    add("--overwrite", action="store_true", help="replace BEDs that are there")
    given = parser.parse_args(arguments)
    settings = SplitSettings(
        genomes=named_paths("--genome", given.genome),
        homology=homology_files(given.homology),
        block_bp=given.block,
        seed=given.seed,
        valid_share=given.valid_share,
        test_share=given.test_share,
        min_aligned=given.min_aligned,
        cut_groups=given.cut_groups,
        aliases=named_paths("--aliases", [text for text in given.aliases if text != "auto"]),
        match_names="auto" in given.aliases,
    )
    return settings, given.out, given.overwrite


def write(result: GenomesSplit, settings: SplitSettings, out: Path, overwrite: bool) -> None:
    """Write NAME.bed for every species."""
    paths = {name: out / f"{name}.bed" for name in result.species}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; add --overwrite to replace it")
    comments = [
        f"made by data_prep/split.py: block {settings.block_bp}, seed {settings.seed}, "
        f"valid {settings.valid_share}, test {settings.test_share}, "
        f"min-aligned {settings.min_aligned}, cut-groups {settings.cut_groups or 'no'}",
        *(f"homology {a}:{b} {path.name}" for a, b, path in settings.homology),
    ]
    for name, path in paths.items():
        write_split_bed(path, result.species[name].intervals, comments)


def print_result(result: GenomesSplit, settings: SplitSettings, out: Path) -> None:
    """Print shares and groups, and what to do next."""
    for name, split in result.species.items():
        shares = [f"{s or 'left out'} {100 * share:.1f} %" for s, share in split.shares.items()]
        print(f"{name}: {split.num_blocks} blocks; {', '.join(reversed(shares))} of known bases")
        if split.skipped:
            print(f"  passed over, not in the genome: {shorten(split.skipped)}")
        for text in split.misfits:
            print(f"  passed over, of another length: {text}")
    if settings.homology:
        parts = [f"{100 * part:.1f} % of {name}" for name, part in result.largest.items()]
        print(f"{result.num_groups} groups; the largest held {', '.join(parts)}")
    for name in result.species:
        bed = shlex.quote(str(out / f"{name}.bed"))
        print(f"next: python data_prep/shard.py --species {name} --contigs {bed} …")


def main() -> int:
    """Run the command; returns the exit status."""
    settings, out, overwrite = parse_settings()
    result = split_genomes(settings)
    write(result, settings, out, overwrite)
    print_result(result, settings, out)
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, goes_on=True))
