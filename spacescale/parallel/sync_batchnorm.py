"""BatchNorm over all processes' windows, on CPUs and GPUs alike.

torch's own SyncBatchNorm needs a GPU, and hands out no statistics for `ConvBlock` to fuse.
Shapes: B windows of this process, C channels, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spacescale.model.layers import BatchNorm, moments
from spacescale.parallel.comm import add_over_ranks, gather_rows, rank, world_size


class _GatherRows(torch.autograd.Function):
    """Differentiable `gather_rows`: (n,) of every rank → (world, n)."""

    @staticmethod
    def forward(ctx, row: Tensor) -> Tensor:
        return gather_rows(row)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return add_over_ranks(grad)[rank()]


class SyncBatchNorm(BatchNorm):
    """BatchNorm whose training statistics are those of all ranks together."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | int]:
        """Mean and biased variance over all ranks (C,), and how many values each is of.

        One collective forwards and one backwards. The ranks' means and variances are merged (Chan
        et al. 1979); a difference of summed squares would lose its digits over long sequences.
        """
        mean, variance = moments(x)
        here = mean.new_full((1,), x.numel() // x.shape[1])  # no copy, for which a GPU would wait
        ranks: Tensor = _GatherRows.apply(torch.cat([mean, variance, here]))  # pyright: ignore[reportAssignmentType]
        means, variances, counts = ranks.split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        return mean, variance, count


def synchronise_batchnorm(model: nn.Module) -> None:
    """Make every BatchNorm of `model` see all ranks; parameter names stay the same."""
    if world_size() == 1:
        return
    for module in model.modules():
        if type(module) is BatchNorm:
            module.__class__ = SyncBatchNorm
