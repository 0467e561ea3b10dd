"""Live augmentation: sequence shift and reverse complement.

Shapes: L bases, N bins, T tracks.
"""

from __future__ import annotations

import numpy as np

from spacescale.genome.dna import reverse_complement


def flip(
    codes: np.ndarray, targets: np.ndarray, strand_pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reverse complement one window: bases complemented and reversed, bins reversed, and every
    track replaced by its opposite strand.

    codes (L,) uint8, targets (N, T), strand_pair (T,) int64, an involution. Flipping twice is the
    identity.
    """
    return reverse_complement(codes), targets[::-1, strand_pair]
