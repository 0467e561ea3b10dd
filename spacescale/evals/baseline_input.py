"""The bases that baselines are fitted to and predict from."""

from __future__ import annotations

import numpy as np

from spacescale.dataset.reader import SpeciesData
from spacescale.genome import dna


def bases_around(data: SpeciesData, row: int, flank_bins: int, shift: int = 0) -> np.ndarray:
    """Return the bases of a target with so many bins on either side, uint8 (L,).

    shift: bp to the right. N where the data set does not hold them.
    """
    length = (data.target_length + 2 * flank_bins) * data.bin_size
    held = length if data.contig(row).whole else min(length, data.seq_length)
    return np.pad(data.sequence(row, held, shift), (length - held) // 2, constant_values=dna.N)
