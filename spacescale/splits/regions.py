"""A genome cut into regions: contigs end to end on one axis, region numbers for many bases at once.

Coordinates are 0-based half-open, in bp.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from spacescale.genome import dna
from spacescale.genome.sequence_files import Genome


class Regions:
    """Every base of a genome in exactly one region. Contigs are sorted by name.

    lengths: {contig: bp}. edges: int64 [regions + 1], where each region begins on the common axis,
    and the axis' end.
    """

    def __init__(self, lengths: Mapping[str, int], cuts: Mapping[str, np.ndarray]):
        """Cut each contig at the positions `cuts` names, and at its ends in any case."""
        self.lengths = dict(sorted(lengths.items()))
        ends = np.cumsum(list(self.lengths.values()), dtype=np.int64)
        self._offsets = dict(
            zip(self.lengths, (ends - list(self.lengths.values())).tolist(), strict=True)
        )
        parts = [np.append(ends[-1:], [0])]
        for name, offset in self._offsets.items():
            inside = np.clip(cuts.get(name, np.zeros(0, np.int64)), 0, self.lengths[name])
            parts.append(inside.astype(np.int64) + offset)
            parts.append(np.array([offset], dtype=np.int64))
        self.edges = np.unique(np.concatenate(parts))

    @classmethod
    def blocks(cls, lengths: Mapping[str, int], block_bp: int) -> "Regions":
        """Cut each contig into blocks of block_bp; its last one may be shorter."""
        return cls(lengths, {n: np.arange(0, bp, block_bp) for n, bp in lengths.items()})

    def __len__(self) -> int:
        return self.edges.size - 1

    def offset_of(self, chrom: str) -> int:
        """Return where base 0 of a contig lies on the common axis."""
        return self._offsets[chrom]

    def of(self, positions: np.ndarray) -> np.ndarray:
        """Return the region of each base, int64, of its position on the common axis."""
        return np.searchsorted(self.edges, positions, side="right") - 1

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        """Yield contig, start and end of each region, in the order of their numbers."""
        names, offsets = list(self._offsets), list(self._offsets.values())
        contig_of = np.searchsorted(offsets, self.edges[:-1], side="right") - 1
        starts, ends = self.edges[:-1].tolist(), self.edges[1:].tolist()
        for contig, start, end in zip(contig_of.tolist(), starts, ends, strict=True):
            yield names[contig], start - offsets[contig], end - offsets[contig]

    def known_bases(self, genome: Genome) -> np.ndarray:
        """Return how many bases of each region are not N, int64 [regions]."""
        counts = [
            np.add.reduceat(genome.contigs[name] != dna.N, self._starts_in(name), dtype=np.int64)
            for name in self.lengths
        ]
        return np.concatenate(counts)

    def _starts_in(self, chrom: str) -> np.ndarray:
        offset = self._offsets[chrom]
        first, last = np.searchsorted(self.edges, [offset, offset + self.lengths[chrom]])
        return self.edges[first:last] - offset
