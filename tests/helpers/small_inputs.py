"""A small genome with tracks, written as the files a user would have."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pyBigWig

from spacescale.prepare.options import DatasetOptions
from spacescale.splits.options import SplitOptions

LENGTHS = {"chrI": 3_000, "chrII": 2_000, "chrIII": 1_500, "chrM": 400}
TABLE_HEADER = "index\tidentifier\tfile\tclip\tscale\tsum_stat\tstrand_pair\tdescription\tlab\n"
TABLE = TABLE_HEADER + (
    "0\tplus\tplus.bw\t\t1\tmean\t1\tRNA:plus\tx\n1\tminus\tminus.bw\t20\t2\tsum\t0\tRNA:minus\ty\n"
)


def write_fasta(path: Path, lengths: dict[str, int] | None = None) -> None:
    rng = np.random.default_rng(1)
    letters = np.array(list("ACGT"))
    with path.open("w") as file:
        for name, length in (lengths or LENGTHS).items():
            sequence = "".join(rng.choice(letters, length))
            if name == "chrI":
                sequence = sequence[:1000] + "N" * 130 + sequence[1130:]
            file.write(f">{name}\n{sequence}\n")


def write_bigwig(path: Path, lengths: dict[str, int], seed: int) -> None:
    """Coverage everywhere but on bases 100 to 150 of each contig."""
    rng = np.random.default_rng(seed)
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(lengths.items()))
        for name, length in lengths.items():
            values = rng.gamma(1, 2, length)
            file.addEntries(name, 0, values=values[:100], span=1, step=1)
            file.addEntries(name, 150, values=values[150:], span=1, step=1)


def write_inputs(
    folder: Path, track_lengths: dict[str, int] | None = None, table: str = TABLE
) -> dict[str, Path]:
    """Write genome.fa, targets.txt, plus.bw and minus.bw; return the paths for DatasetOptions."""
    folder.mkdir(exist_ok=True)
    write_fasta(folder / "genome.fa")
    for seed, name in enumerate(("plus", "minus")):
        write_bigwig(folder / f"{name}.bw", track_lengths or LENGTHS, seed)
    (folder / "targets.txt").write_text(table)
    return {"fasta": folder / "genome.fa", "targets": folder / "targets.txt"}


def small_options(folder: Path, out: Path, **changes) -> DatasetOptions:
    """Windows of 8 bins of 16 bp in 192 bp of sequence; chrII valid, chrIII test."""
    settings = {
        "species": "tiny",
        "out": out,
        "fasta": folder / "genome.fa",
        "targets": folder / "targets.txt",
        "seq_length": 192,
        "bin_size": 16,
        "target_length": 8,
    }
    splits = {"valid_chroms": ("chrII",), "test_chroms": ("chrIII",)}
    for field in fields(SplitOptions):
        if field.name in changes:
            splits[field.name] = changes.pop(field.name)
    return DatasetOptions(splits=SplitOptions(**splits), **(settings | changes))
