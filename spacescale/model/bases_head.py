"""Which base stands where one is hidden: a narrow pyramid from the bins back to single bases.

Shapes: B masked windows, L bases, R width of the head, M hidden bases; level l has L / 2^l
positions, of C_l channels in the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spacescale.model.layers import GELU, NUM_BASES, ConvBlock
from spacescale.model.precision import at_least_float32


class BasesHead(nn.Module):
    """From the transformer's output down, at each level joined by what the trunk pooled there.

    The trunk's features see the masked input alone, so nothing leaks through these. The last
    layer begins at 0: a fresh head says that all bases are as likely.
    """

    def __init__(self, channels: Sequence[int], top: int, width: int):
        """channels: C_l of the trunk before it pools, finest level first; top: of its output."""
        super().__init__()
        self.top = nn.Conv1d(top, width, 1)
        self.laterals = nn.ModuleList(nn.Conv1d(c, width, 1, bias=False) for c in channels)
        self.blocks = nn.ModuleList(ConvBlock(width, width, 3) for _ in channels)
        self.activate = GELU()
        self.logits = nn.Linear(width, NUM_BASES)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, pooled: Sequence[Tensor], top: Tensor, places: Tensor) -> Tensor:
        """Logits of A C G T, float32 (M, 4).

        pooled: (B, C_l, L / 2^l), finest level first. top: (B, bins, D). places: (M,) int64, of the
        hidden bases in B · L.
        """
        x = self.top(top.transpose(1, 2))  # (B, R, bins)
        levels = list(zip(pooled, self.laterals, self.blocks, strict=True))
        for features, lateral, block in reversed(levels):
            x = x.repeat_interleave(2, dim=2)[..., : features.shape[2]]
            x = block(x + lateral(features))  # (B, R, L / 2^l)
        length = x.shape[2]
        window = places.div(length, rounding_mode="floor")
        hidden = x.transpose(1, 2)[window, places - window * length]  # (M, R)
        return at_least_float32(self.logits(self.activate(hidden)))


def masked_cross_entropy(
    logits: Tensor, bases: Tensor, weights: Tensor, hidden_per_rank: Tensor
) -> Tensor:
    """Sum of weight · cross-entropy in nats over M bases, by `hidden_per_rank`, a mean over ranks.

    logits (M, 4), bases (M,) int64, weights (M,). So its mean over ranks is that over the hidden
    bases of all of them; 0 where there are none.
    """
    terms = nn.functional.cross_entropy(logits, bases, reduction="none")
    return (weights * terms).sum() / hidden_per_rank.clamp(min=torch.finfo(terms.dtype).tiny)
