"""What one species lost, whatever the loss is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SpeciesLoss:
    """The loss of one species in one micro-step, without any weight of the species."""

    mean: Tensor  # of this rank; its mean over ranks is that over all ranks' measured targets
    windows: int  # of all ranks
    measured: Tensor | float  # share of their targets
