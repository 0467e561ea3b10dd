"""Checks of what a dataset says about its sequence: contigs, splits, letter case."""

from collections.abc import Iterator

import numpy as np

from spacescale.dataset.codecs import GENOME_CHUNK_BP
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import EXCLUDED, MANIFEST
from spacescale.dataset.sequence_splits import sequence_hash
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.genome.intervals import Interval
from spacescale.genome.stretches import Stretches
from spacescale.verify.findings import Finding, error

_TABLE = "sequence.bed"


def check_contigs(data: SpeciesGenome) -> Iterator[Finding]:
    """Check that the contigs lie one after another."""
    end = 0
    for contig in data.manifest.contigs:
        if contig.offset != end:
            what = f"begins at {contig.offset:,} of genome, the contigs before end at {end:,}"
            yield error("layout", data.path / MANIFEST, what, contig.name)
        end += contig.length


def check_sequence_table(data: SpeciesGenome) -> Iterator[Finding]:
    """Check that every base has one split, and no target lies in the sequence of another."""
    if data.manifest.format_version == 2:
        return
    path, stretches = data.path / _TABLE, data.sequence_table.intervals()
    told = data.manifest.sequence
    if told is None or sequence_hash(stretches) != told.hash:
        yield error("splits", path, "does not have the hash of the sequence that the manifest says")
    if fault := _gap(data, stretches):
        yield error("splits", path, fault)
    elif isinstance(data, SpeciesData):
        yield from _check_targets(data)


def _gap(data: SpeciesGenome, stretches: list[Interval]) -> str:
    """Say where the stretches do not tile the contigs; empty if they do."""
    rest = iter(stretches)
    stretch = next(rest, None)
    for contig in data.manifest.contigs:
        place, end = contig.start, contig.start + contig.length
        while place < end:
            if stretch is None or (stretch.chrom, stretch.start) != (contig.name, place):
                return f"gives {contig.name}:{place} no split, or more than one"
            place, stretch = stretch.end, next(rest, None)
        if place != end:
            return f"gives {contig.name} bases up to {place}, it has them up to {end}"
    return f"lists {stretch.chrom}:{stretch.start}, which is not stored" if stretch else ""


def _check_targets(data: SpeciesData) -> Iterator[Finding]:
    """Targets may lie in what a margin excludes, and in no other split's sequence."""
    table, windows = data.sequence_table, data.windows
    for split in sorted(data.bases_of_splits().keys() - {EXCLUDED}):
        for chrom in np.unique(windows.chrom).tolist():
            mine = (table.split == split) & (table.chrom == chrom)
            stretches = Stretches.covered_by(table.start[mine], table.end[mine])
            others = np.flatnonzero((windows.chrom == chrom) & (windows.split != split))
            shared = stretches.bases_in(windows.start[others], windows.end[others])
            for row in others[shared > 0][:1].tolist():  # one tells of all
                what = f"holds the target of row {row} ({windows.split[row]}: {data.place(row)})"
                yield error("splits", data.path / _TABLE, what, f"{split} of {chrom}")


def check_repeats(data: SpeciesGenome) -> Iterator[Finding]:
    """Read every bit of the letter case and count what is in lower case."""
    told = data.manifest.sequence
    if told is None or told.lower_case is None:
        return
    path = data.path / "repeats"
    size = sum(contig.length for contig in data.manifest.contigs)
    try:
        counts = (
            np.count_nonzero(data.repeats_at(start, min(start + GENOME_CHUNK_BP, size)))
            for start in range(0, size, GENOME_CHUNK_BP)
        )
        found = int(sum(counts))
    except UserError as problem:
        yield error("repeats", path, str(problem))
        return
    if found != told.lower_case:
        what = f"marks {found:,} bases, the manifest says {told.lower_case:,}"
        yield error("repeats", path, what)
