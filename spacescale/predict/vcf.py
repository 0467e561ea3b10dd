"""Variants from VCF or BCF files, each with a reason where it is none to score.

Format: VCF 4.x, plain or gzip, of whose columns the first five are read: CHROM POS ID REF ALT.
Files without the line of column names are taken as well. BCF is read by pysam.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spacescale.errors import UserError
from spacescale.genome.dna import N, encode
from spacescale.genome.open_genome import OpenGenome
from spacescale.genome.text_files import text_lines

_BASES = re.compile(r"[ACGTacgt]+")
_COLUMNS = 5


@dataclass(frozen=True)
class Variant:
    """One alternative allele. start: 0-based position of the first base of `ref`."""

    line: int  # of the file; of a BCF, number of the record, from 1
    chrom: str
    start: int
    name: str
    ref: str
    alt: str

    @property
    def end(self) -> int:
        """Behind the last base of `ref`."""
        return self.start + len(self.ref)

    @property
    def is_snv(self) -> bool:
        """Whether it is one base in the place of one."""
        return len(self.ref) == len(self.alt) == 1

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start + 1} {self.ref}>{self.alt}"


def read_vcf(path: Path) -> Iterator[Variant]:
    """Yield every alternative allele, upper case, in the order of the file; VCF or BCF.

    Alleles of one record come one after the other. Raises UserError naming file and line for a
    record that is none, and what to install where BCF cannot be read.
    """
    for number, chrom, start, name, ref, alts in _bcf(path) if _is_bcf(path) else _vcf(path):
        for alt in alts:
            yield Variant(number, chrom, start, name, ref.upper(), alt.upper())


_Record = tuple[int, str, int, str, str, Iterable[str]]  # line, chrom, start, name, ref, alts


def _is_bcf(path: Path) -> bool:
    try:
        with gzip.open(path, "rb") as file:
            return file.read(3) == b"BCF"
    except (OSError, EOFError, zlib.error):
        return False


def _bcf(path: Path) -> Iterator[_Record]:
    try:
        import pysam
    except ImportError:
        raise UserError(
            f"{path}: BCF is read by pysam: pip install 'spacescale[bcf]', or make a VCF by "
            "bcftools view"
        ) from None
    before = pysam.set_verbosity(0)  # its words of warning; what is wrong is raised
    try:
        with pysam.VariantFile(str(path)) as file:
            for number, record in enumerate(file, 1):
                alts = record.alts or (".",)
                yield number, record.chrom, record.start, record.id or ".", record.ref or "N", alts
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is a damaged or truncated BCF file ({error})") from error
    finally:
        pysam.set_verbosity(before)


def _vcf(path: Path) -> Iterator[_Record]:
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
        yield number, chrom, int(position) - 1, name, ref, alts.split(",")


def reason_to_skip(variant: Variant, genome: OpenGenome, longest: int) -> str:
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
    if reason := reason_not_there(variant, genome):
        return reason
    if max(len(variant.ref), len(variant.alt)) > longest:
        return f"allele longer than {longest} bp"
    return ""


def reason_not_there(variant: Variant, genome: OpenGenome) -> str:
    """Say why a genome has no bases where a variant is, "" where it has."""
    if variant.chrom not in genome.contigs:
        return "contig not in the FASTA"
    if variant.start < 0 or variant.end > len(genome.contigs[variant.chrom]):
        return "beyond the ends of the contig"
    if (genome.contigs[variant.chrom][variant.start : variant.end] == N).any():
        return "N in the genome there"
    return ""


def ref_matches(variant: Variant, genome: OpenGenome) -> bool:
    """Whether the genome has REF there."""
    there = genome.contigs[variant.chrom][variant.start : variant.end]
    return bool((there == encode(variant.ref)).all())
