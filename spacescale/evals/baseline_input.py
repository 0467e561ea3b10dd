"""The bases that baselines are fitted to and predict from.

Shapes: L bp, N bins, T tracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spacescale.dataset.reader import SpeciesData
from spacescale.genome import dna


def bases_around(data: SpeciesData, row: int, flank_bins: int, shift: int = 0) -> np.ndarray:
    """Return the bases of a target with so many bins on either side, uint8 (L,).

    shift: bp to the right. N where the data set does not hold them.
    """
    length = (data.target_length + 2 * flank_bins) * data.bin_size
    held = length if data.contig(row).whole else min(length, data.seq_length)
    return np.pad(data.sequence(row, held, shift), (length - held) // 2, constant_values=dna.N)


@dataclass(frozen=True)
class Strands:
    """What to predict from: the strand that is stored alone, or the mean of both.

    pair: (T,) int64, each track's opposite strand. means: (T,), what targets are divided by.
    """

    pair: np.ndarray
    means: np.ndarray
    both: bool = False

    def predict(self, rates: Callable[[np.ndarray], Tensor], codes: np.ndarray) -> Tensor:
        """Predict float32 (N, T) in track means by `rates`, which does so for codes, uint8 (L,)."""
        found = rates(codes)
        if not self.both:
            return found
        other = rates(dna.reverse_complement(codes)).flip(0)[:, torch.from_numpy(self.pair)]
        return (found + other * torch.from_numpy(self.means[self.pair] / self.means).float()) / 2
