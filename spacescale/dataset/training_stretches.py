"""Which bases of a species' genome training may read: what words are learnt from."""

import numpy as np

from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.schema import Contig
from spacescale.genome.stretches import Stretches


def training_stretches(data: SpeciesData) -> list[tuple[Contig, int, int]]:
    """Stored contig (or piece of one), start and end of each stretch: 0-based half-open, in order.

    The targets of training windows, joined where they overlap or touch, without what is also in a
    target of another split. Raises UserError where there is no training window.
    """
    windows, rows = data.windows, data.rows("train")
    offset = np.array([data.contig(int(row)).offset for row in rows], dtype=np.int64)
    found = []
    for contig in data.manifest.contigs:
        train = rows[offset == contig.offset]
        held_out = np.flatnonzero((windows.chrom == contig.name) & (windows.split != "train"))
        kept = _covered(data, train).without(_covered(data, held_out))
        ends = zip(kept.starts.tolist(), kept.ends.tolist(), strict=True)
        found += [(contig, start, end) for start, end in ends]
    return found


def _covered(data: SpeciesData, rows: np.ndarray) -> Stretches:
    return Stretches.covered_by(data.windows.start[rows], data.windows.end[rows])
