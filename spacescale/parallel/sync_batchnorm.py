"""BatchNorm over all processes' windows, on CPUs too.

torch's own SyncBatchNorm needs a GPU; where there is one, it is what is used.
Shapes: B windows of this process, C channels, L positions, n = B·L positions here, N of all ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.parallel.comm import add_over_ranks, gather_rows, uses_gpu, world_size


class _NormaliseOverRanks(torch.autograd.Function):
    """(x − mean) / √(variance + eps) · weight + bias, with mean and variance over all ranks.

    One collective forwards and one backwards. The ranks' means and variances are merged (Chan et
    al. 1979); a difference of summed squares would lose its digits over long sequences.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        mean = x.mean((0, 2))  # (C,); torch.var_mean takes seven times as long on CPUs
        variance = (x - mean[:, None]).square_().mean((0, 2))
        here = mean.new_tensor([float(x.numel() // x.shape[1])])
        ranks = gather_rows(torch.cat([mean, variance, here]))  # (world, 2C + 1)
        means, variances, counts = ranks.split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.mark_non_differentiable(mean, variance, count)
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx, grad: Tensor, *_: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        normalised = (x - mean[:, None]) * inverse_std[:, None]
        grad_bias = grad.sum((0, 2))
        grad_weight = (grad * normalised).sum((0, 2))
        through_mean, through_std = (
            add_over_ranks(torch.cat([grad_bias, grad_weight])) / count
        ).chunk(2)
        grad_x = grad - through_mean[:, None] - normalised * through_std[:, None]
        return grad_x * (weight * inverse_std)[:, None], grad_weight, grad_bias, None


class CPUSyncBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics are those of all ranks together."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L); updates the running statistics in training."""
        if not self.training:
            return super().forward(input)
        y, mean, variance, count = _NormaliseOverRanks.apply(
            input.float(), self.weight, self.bias, self.eps
        )  # pyright: ignore[reportGeneralTypeIssues]
        self._update(mean, variance * count / (count - 1))
        return y.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
        self.num_batches_tracked.add_(1)


def synchronise_batchnorm(model: nn.Module) -> None:
    """Make every BatchNorm of `model` see all ranks; parameter names stay the same."""
    if world_size() == 1:
        return
    if uses_gpu():
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = CPUSyncBatchNorm
