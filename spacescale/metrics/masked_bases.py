"""How well hidden bases are predicted. Shapes: M hidden bases."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class BaseScores:
    """Sums over hidden bases that add up: cross-entropy in nats, right guesses, how many bases."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, bases: Tensor) -> None:
        """Add logits (M, 4), or any log probabilities, of true bases (M,) int64."""
        lost = cross_entropy(logits.double(), bases, reduction="sum")
        right = (logits.argmax(1) == bases).sum()
        self.sums += torch.stack([lost, right.double(), lost.new_tensor(float(len(bases)))])

    @property
    def count(self) -> int:
        """How many bases were scored."""
        return int(self.sums[2])

    @property
    def cross_entropy(self) -> float:
        """Nats per base; NaN without any."""
        return float(self.sums[0] / self.sums[2])

    @property
    def perplexity(self) -> float:
        """exp of the cross-entropy: of how many bases, equally likely, it is one; 4 by chance."""
        return math.exp(self.cross_entropy)

    @property
    def accuracy(self) -> float:
        """Share of bases that were thought the likeliest."""
        return float(self.sums[1] / self.sums[2])
