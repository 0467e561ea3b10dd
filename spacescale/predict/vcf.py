"""Variants from VCF files, plain or gzip, each with a reason where it is none to score.

Format: VCF 4.x, of whose columns the first five are read: CHROM POS ID REF ALT. Files without the
line of column names are taken as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spacescale.errors import UserError
from spacescale.genome.dna import N, encode
from spacescale.genome.sequence_files import Genome
from spacescale.genome.text_files import text_lines

_BASES = re.compile(r"[ACGTacgt]+")
_COLUMNS = 5


@dataclass(frozen=True)
class Variant:
    """One alternative allele. start: 0-based position of the first base of `ref`."""

    line: int  # of the file
    chrom: str
    start: int
    name: str
    ref: str
    alt: str

    @property
    def end(self) -> int:
        """Behind the last base of `ref`."""
        return self.start + len(self.ref)

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start + 1} {self.ref}>{self.alt}"


def read_vcf(path: Path) -> Iterator[Variant]:
    """Yield every alternative allele, upper case, in the order of the file.

    Alleles of one record come one after the other. Raises UserError naming file and line for a
    record that is none.
    """
    for number, line in text_lines(path, "a VCF file of variants", kinds={"vcf"}):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) < _COLUMNS:
            raise UserError(
                f"{path}:{number}: {len(cells)} columns parted by tabs; expected CHROM POS ID REF "
                f"ALT at least"
            )
        chrom, position, name, ref, alts = cells[:_COLUMNS]
        if not position.isdecimal():
            raise UserError(f"{path}:{number}: POS {position!r}; expected a whole number")
        for alt in alts.split(","):
            yield Variant(number, chrom, int(position) - 1, name, ref.upper(), alt.upper())


def reason_to_skip(variant: Variant, genome: Genome, longest: int) -> str:
    """Say why an allele cannot be scored, "" where it can.

    longest: bp that either allele may have.
    """
    if variant.alt in ("*", ".", "<*>", "<NON_REF>"):
        return "no alternative allele"
    if variant.alt.startswith("<"):
        return "symbolic allele"
    if "[" in variant.alt or "]" in variant.alt:
        return "breakend"
    if not (_BASES.fullmatch(variant.ref) and _BASES.fullmatch(variant.alt)):
        return "letters other than ACGT"
    if variant.ref == variant.alt:
        return "REF and ALT are the same"
    if variant.chrom not in genome.contigs:
        return "contig not in the FASTA"
    if variant.start < 0 or variant.end > len(genome.contigs[variant.chrom]):
        return "beyond the ends of the contig"
    if (genome.contigs[variant.chrom][variant.start : variant.end] == N).any():
        return "N in the genome there"
    if max(len(variant.ref), len(variant.alt)) > longest:
        return f"allele longer than {longest} bp"
    return ""


def ref_matches(variant: Variant, genome: Genome) -> bool:
    """Whether the genome has REF there."""
    there = genome.contigs[variant.chrom][variant.start : variant.end]
    return bool((there == encode(variant.ref)).all())
