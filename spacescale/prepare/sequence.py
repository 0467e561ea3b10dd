"""The sequence of a dataset: `genome`, `repeats` and sequence.bed; README.md says how they look."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from spacescale.dataset.codecs import GENOME_CHUNK_BP, GENOME_SHARD_BP, genome_codecs
from spacescale.dataset.interval_table import write_intervals
from spacescale.dataset.schema import Contig, SequenceInfo
from spacescale.dataset.sequence_splits import sequence_hash
from spacescale.genome import dna
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import Genome


@dataclass(frozen=True)
class StoredSequence:
    """What a manifest says of the sequence that was written, and what a person should know."""

    info: SequenceInfo
    warnings: list[str]


def place_contigs(lengths: Mapping[str, int], names: Iterable[str]) -> list[Contig]:
    """Return where in `genome` each of the named contigs lies, in the order of the names."""
    contigs, offset = [], 0
    for name in names:
        contigs.append(Contig(name=name, length=lengths[name], offset=offset))
        offset += lengths[name]
    return contigs


def write_sequence(
    folder: Path,
    contigs: Sequence[Contig],
    codes: Iterable[np.ndarray],
    stretches: Sequence[Interval],
    genome: Genome | None = None,
) -> StoredSequence:
    """Write the sequence of a dataset.

    codes: of each contig, uint8 [length]. stretches: as `sequence_splits` gives them. genome: with
    the letter case of the contigs, of which `repeats` is made if some bases are in lower case.
    """
    write_genome(folder, contigs, codes)
    write_intervals(folder / "sequence.bed", stretches)
    lower_case, warnings = _lower_case(genome, contigs) if genome else (None, [])
    if genome and lower_case is not None:
        write_repeats(folder, contigs, (genome.lower_case(contig.name) for contig in contigs))
    info = SequenceInfo(hash=sequence_hash(stretches), lower_case=lower_case)
    return StoredSequence(info, warnings)


def _lower_case(genome: Genome, contigs: Sequence[Contig]) -> tuple[int | None, list[str]]:
    """Return how many bases are in lower case, None where that tells no repeats, and warnings."""
    lower_case = upper_case = 0
    for contig in contigs:
        lower = genome.lower_case(contig.name)
        lower_case += int(np.count_nonzero(lower))
        upper_case += int(np.count_nonzero(~lower & (genome.contigs[contig.name] != dna.N)))
    if lower_case and not upper_case:
        return None, ["every base is in lower case: that tells no repeats, so none are kept"]
    return lower_case or None, []


def write_genome(folder: Path, contigs: Sequence[Contig], codes: Iterable[np.ndarray]) -> None:
    """Write `genome`: the base codes of the contigs, uint8 [length] each, one after another."""
    array = zarr.create_array(
        folder / "genome",
        shape=(_num_bases(contigs),),
        dtype=np.uint8,
        chunks=(GENOME_CHUNK_BP,),
        shards=(GENOME_SHARD_BP,),
        **genome_codecs(),
        fill_value=255,
        config={"write_empty_chunks": True},
        dimension_names=("base",),
    )
    for start, bases in _in_shards(contigs, codes):
        array[start : start + bases.size] = bases


def write_repeats(folder: Path, contigs: Sequence[Contig], lower: Iterable[np.ndarray]) -> None:
    """Write `repeats`: a bit for each base of `genome`, the first in the highest bit of a byte.

    lower: of each contig, bool [length].
    """
    array = zarr.create_array(
        folder / "repeats",
        shape=(-(-_num_bases(contigs) // 8),),
        dtype=np.uint8,
        chunks=(GENOME_CHUNK_BP // 8,),
        shards=(GENOME_SHARD_BP // 8,),
        **genome_codecs(),
        fill_value=0,
        config={"write_empty_chunks": True},
        dimension_names=("eight_bases",),
    )
    for start, bases in _in_shards(contigs, lower):
        bits = np.packbits(bases)
        array[start // 8 : start // 8 + bits.size] = bits


def _num_bases(contigs: Sequence[Contig]) -> int:
    return sum(contig.length for contig in contigs)


def _in_shards(
    contigs: Sequence[Contig], arrays: Iterable[np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (place of its first base, values of a whole shard), of an array for each contig.

    Shard by shard, because one that is written in two parts is read back and compressed anew. What
    is yielded is overwritten afterwards.
    """
    size = min(GENOME_SHARD_BP, _num_bases(contigs))
    shard, filled, start = np.empty(size, np.uint8), 0, 0
    for contig, values in zip(contigs, arrays, strict=True):
        assert contig.offset == start + filled and contig.length == values.size
        taken = 0
        while taken < values.size:
            part = values[taken : taken + shard.size - filled]
            shard[filled : filled + part.size] = part
            filled, taken = filled + part.size, taken + part.size
            if filled == shard.size:
                yield start, shard
                start, filled = start + filled, 0
    if filled:
        yield start, shard[:filled]
