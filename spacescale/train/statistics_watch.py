"""Watches over a model's buffers, the running statistics of BatchNorm above all.

One forward pass that overflows puts NaN or infinity into them. Training does not use them and goes
on with finite losses, but validation and everything after training does, and an average that once
was infinite stays so for ever.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spacescale.checkpoint.pieces import buffers_of


class StatisticsWatch:
    """Keeps the buffers as they were before a step, on their device, to bring them back."""

    def __init__(self, model: nn.Module):
        """Take the buffers where they are now; the model must not be moved any more."""
        self.buffers = list(buffers_of(model).values())
        self.averages = [buffer for buffer in self.buffers if buffer.is_floating_point()]
        self.kept = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the buffers as they are."""
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            kept.copy_(buffer)

    def largest(self) -> Tensor:
        """The largest magnitude in any buffer, a scalar on the device: not finite if one is not."""
        return nn.utils.get_total_norm(self.averages, norm_type=math.inf)

    @torch.no_grad()
    def restore(self) -> None:
        """Bring back what was kept."""
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            buffer.copy_(kept)
