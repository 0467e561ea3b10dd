"""Where in a genome the sequences of a task lie, where its files say so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.aliases import match_styles, suggest
from spacescale.genome.open_genome import OpenGenome
from spacescale.genome.text_files import whole_number
from spacescale.tasks.tables import Table
from spacescale.tasks.task import Examples, Locus, Task

CONTIG_COLUMNS = ("region", "chromosome", "chrom", "chr")
STRANDS = ("+", "-", ".", "")
_NAME = re.compile(r"(\S+):([0-9]+)-([0-9]+)(?:\(?([-+.])\)?)?")


def table_loci(table: Table) -> list[Locus]:
    """Of a table with columns of contig, start, end and perhaps strand; [] where a row is unclear.

    A table of sequences may have such columns and mean something else: nothing is refused here.
    """
    columns = [_only_column(table, names) for names in (CONTIG_COLUMNS, ("start",), ("end",))]
    if not all(columns):
        return []
    strands = _only_column(table, ("strand",)) or [""] * len(table)
    return _all_or_none([_locus(*row) for row in zip(*columns, strands, strict=True)])


def named_loci(names: Sequence[str]) -> list[Locus]:
    """Of names CONTIG:START-END, perhaps with a strand behind; [] where one is anything else."""
    found = [_NAME.fullmatch(name) for name in names]
    return _all_or_none([None if one is None else _locus(*one.groups("")) for one in found])


def _only_column(table: Table, names: Sequence[str]) -> list[str]:
    found = [column for column in table.columns if column.lower() in names]
    return table.columns[found[0]] if len(found) == 1 else []


def _locus(contig: str, start: str, end: str, strand: str) -> Locus | None:
    first, last = whole_number(start), whole_number(end)
    if first is None or last is None or not 0 <= first < last or strand not in STRANDS:
        return None
    return Locus(contig, first, last, strand == "-")


def _all_or_none(loci: Sequence[Locus | None]) -> list[Locus]:
    known = [one for one in loci if one is not None]
    return known if len(known) == len(loci) else []


def in_genome(task: Task, genome: OpenGenome) -> Task:
    """The task with contigs as the genome calls them, once its sequences are found there.

    Raises UserError naming the sequence where a split has no places, or a place is not in the
    genome or holds other bases. What a sequence leaves open (N) may be anything.
    """
    splits = {}
    for split, examples in task.splits.items():
        if not examples.loci:
            raise UserError(
                f"{task.path}: nothing says where in a genome its {split} sequences lie; expected "
                "columns chrom, start and end (strand), headers CONTIG:START-END, or in an .h5 "
                f"coords_{split} of such words"
            )
        splits[split] = _in_genome(task, examples, genome)
    return replace(task, splits=splits)


def _in_genome(task: Task, examples: Examples, genome: OpenGenome) -> Examples:
    aliases = match_styles(dict.fromkeys(one.contig for one in examples.loci), genome.contigs)
    loci = [one._replace(contig=aliases.get(one.contig, one.contig)) for one in examples.loci]
    for name, codes, locus in zip(examples.names, examples.codes, loci, strict=True):
        place = f"{task.path}: {name}"
        if locus.contig not in genome.contigs:
            raise UserError(
                f"{place}: {genome.path} has no contig {locus.contig!r}"
                f"{suggest(locus.contig, genome.contigs)}"
            )
        there = genome.contigs[locus.contig][locus.start : locus.end]
        there = dna.reverse_complement(there) if locus.minus else there
        if len(there) != len(codes) or ((there != codes) & (codes != dna.N)).any():
            strand = "-" if locus.minus else "+"
            raise UserError(
                f"{place}: {genome.path} has another sequence at {locus.contig}:{locus.start}-"
                f"{locus.end} ({strand}); expected these {len(codes)} bp, 0-based and half-open, "
                "of the same assembly"
            )
    return replace(examples, loci=tuple(loci))
