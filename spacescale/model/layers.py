"""Convolutional building blocks of the trunk (Enformer's, as SPACE uses them).

Shapes: B batch, C channels, L positions.
"""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight

NUM_BASES = 4
GELU_SLOPE = 1.702
SHORT = 64  # positions; windows of pretraining have more in every layer


def one_hot(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Expand base codes (B, L) uint8 (A0 C1 G2 T3, anything above = N) to (B, 4, L); N is zeros."""
    bases = torch.arange(NUM_BASES, device=codes.device, dtype=codes.dtype)
    return (codes[:, None, :] == bases[None, :, None]).to(dtype)


def tower_channels(start: int, end: int, num: int, divisible_by: int) -> list[int]:
    """Channels of the conv tower: `num` values from start to end, exponentially spaced, rounded."""
    if num == 1:
        return [end]
    growth = math.exp(math.log(end / start) / (num - 1))
    return [round(start * growth**i / divisible_by) * divisible_by for i in range(num)]


class GELU(nn.Module):
    """The sigmoid approximation x·σ(1.702x) that Enformer was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return torch.sigmoid(GELU_SLOPE * x) * x


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that hands out the statistics it normalises with, for `ConvBlock`.

    A subclass that overrides `moments` takes them over more windows than those given. Once it is
    `frozen`, it stays in evaluation mode and its stored statistics as they are.
    """

    frozen = False

    def train(self, mode: bool = True) -> Self:
        """Go into training mode, unless frozen, or into evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L)."""
        mean, variance = self.statistics(input)
        inverse_std = torch.rsqrt(variance + self.eps)
        normalised = (input - mean[:, None]) * inverse_std[:, None]
        return (normalised * self.weight[:, None] + self.bias[:, None]).to(input.dtype)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,): in training the batch's, differentiable, else the stored.

        Updates the stored ones in training, unless `track_running_stats` is off.
        """
        assert self.running_mean is not None and self.running_var is not None
        if not self.training:
            return self.running_mean, self.running_var
        mean, variance, count = self.moments(x)
        if self.track_running_stats:
            self._update(mean, variance, count)
        return mean, variance

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | int]:
        """Mean and biased variance over windows and positions (C,), and how many values each."""
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError(f"batch statistics need more than one value, found {tuple(x.shape)}")
        return *moments(x), count

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor | int) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class _Moments(torch.autograd.Function):
    """Mean and biased variance of each channel; keeps nothing but its input.

    On GPUs nothing as large as the input is widened to fp32 on the way, in neither direction; nor
    does the compiler, which fuses the plain statement. Of no windows both are 0.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        if not len(x):
            mean = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
            variance = torch.zeros_like(mean)
        elif x.is_cuda and not torch.compiler.is_compiling():
            mean, inverse_std = torch.batch_norm_stats(x, 0.0)  # Welford; 0 where constant
            variance = torch.where(inverse_std > 0, inverse_std**-2, 0.0)
        else:
            wide = torch.promote_types(x.dtype, torch.float32)
            mean = x.mean((0, 2), dtype=wide)  # torch.var_mean takes seven times as long on CPUs
            variance = (x - mean[:, None]).square_().mean((0, 2))
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, mean = ctx.saved_tensors
        if not len(x):
            return torch.zeros_like(x)
        count = x.numel() // x.shape[1]
        slope, level = 2 / count * grad_variance, grad_mean / count
        if x.is_cuda:
            return scale_and_shift(x, mean, slope, level)
        return (x - mean[:, None]).mul_(slope[:, None]).add_(level[:, None]).to(x.dtype)


def scale_and_shift(x: Tensor, mean: Tensor, slope: Tensor, level: Tensor) -> Tensor:
    """(x − mean) · slope + level per channel of (B, C, L), in x's type, computed in fp32."""
    # Not torch.nn.functional.batch_norm: that of torch 2.11 refuses an eps of 0.
    return torch.batch_norm(
        x, slope, level, mean, torch.ones_like(mean), False, 0.0, 0.0, torch.backends.cudnn.enabled
    )


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of (B, C, L) over B and L: (C,) each, at least float32."""
    return _Moments.apply(x)  # pyright: ignore[reportReturnType]


class _NormActivateConvolve(torch.autograd.Function):
    """Normalise → GELU → convolve, keeping its input alone for the backward pass.

    What lies between input and output is as large as they are and cheap to compute again.
    The GELU is silu(1.702 z) / 1.702, of which torch has both directions in one pass each.
    """

    @staticmethod
    def forward(ctx, x, mean, variance, gamma, beta, weight, bias, eps, dilation) -> Tensor:
        dtype = product_dtype(x, weight)
        ctx.eps, ctx.dilation, ctx.dtype = eps, dilation, dtype
        ctx.save_for_backward(x, mean, variance, gamma, beta, weight)
        if not len(x):  # not every kernel takes no windows
            return x.new_zeros(0, len(weight), x.shape[2], dtype=dtype)
        with torch.autocast(x.device.type, enabled=False):
            scaled = _scaled_norm(x, mean, variance, gamma, beta, eps)
            activated = F.silu(scaled, inplace=True).to(dtype)
            return convolve(activated, (weight / GELU_SLOPE).to(dtype), bias.to(dtype), dilation)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, mean, variance, gamma, beta, weight = ctx.saved_tensors
        if not len(x):
            zeros = [torch.zeros_like(t) for t in (x, mean, variance, gamma, beta, weight)]
            return *zeros, gamma.new_zeros(len(weight)), None, None
        with torch.autocast(x.device.type, enabled=False):
            scaled = _scaled_norm(x, mean, variance, gamma, beta, ctx.eps)
            activated = F.silu(scaled).to(ctx.dtype)
            grad_weight = convolve_backward_weight(grad, activated, weight, ctx.dilation)
            del activated
            grad_act = convolve_backward_input(grad, weight.to(ctx.dtype), ctx.dilation)
            grad_act = grad_act.to(scaled.dtype)
            grad_norm = torch.ops.aten.silu_backward(grad_act, scaled)
            del scaled, grad_act
            inverse_std = torch.rsqrt(variance + ctx.eps)
            # With given statistics, as in evaluation: their own gradients follow below. CUDA asks
            # for them a second time, as those saved, where x has 2³¹ elements or more.
            grad_x, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
                grad_norm, x, gamma, mean, variance, mean, inverse_std, False, ctx.eps, [True] * 3
            )
            grad_mean = -gamma * inverse_std * grad_beta
            grad_variance = -0.5 * gamma * inverse_std**2 * grad_gamma
        grad_bias = grad.sum((0, 2), dtype=gamma.dtype)
        return (
            grad_x, grad_mean, grad_variance, grad_gamma, grad_beta,
            grad_weight.to(weight.dtype) / GELU_SLOPE, grad_bias, None, None,
        )  # fmt: skip


def product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """What products of x and weight are computed in: autocast's type where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def _scaled_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, GELU_SLOPE * gamma, GELU_SLOPE * beta, eps=eps)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """'Same' convolution of (B, C, L) with (C', C, odd K): (B, C', L).

    On CPUs one matrix product per tap, which is as fast as oneDNN's forward convolution and twice
    as fast as its backward ones; of many short windows one for all of them. Taps add up in the
    result, so 16-bit results leave it to the library.
    """
    kernel = weight.shape[2]
    if kernel > 1 and not _can_accumulate_taps(x):
        return F.conv1d(x, weight, bias, padding=kernel // 2 * dilation, dilation=dilation)
    if _are_short(x):
        out = weight.mT.flatten(1) @ _columns(x, kernel, dilation)  # (C', B·L)
        out = out.unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1).contiguous()
        return out if bias is None else out + bias[:, None]
    taps = _taps(x, kernel, dilation)
    # Contiguous, or each window's product would begin with a copy of the weights.
    of_taps = weight.permute(2, 0, 1).contiguous()
    w = of_taps[:, None].expand(-1, x.shape[0], -1, -1)  # (K, B, C', C)
    out = torch.bmm(w[0], taps[0])
    for i in range(1, kernel):
        out.baddbmm_(w[i], taps[i])
    if bias is None:
        return out
    # torch 2.11's compiler loses the gradients of a function that returns an in-place result.
    return out + bias[:, None] if torch.compiler.is_compiling() else out.add_(bias[:, None])


def convolve_backward_input(grad: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Gradient of `convolve`'s input: grad (B, C', L), weight (C', C, K) → (B, C, L)."""
    return convolve(grad, weight.transpose(0, 1).flip(2), None, dilation)


def convolve_backward_weight(grad: Tensor, x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Gradient of `convolve`'s weight: grad (B, C', L), x (B, C, L) → (C', C, K)."""
    kernel = weight.shape[2]
    if kernel > 1 and not _can_accumulate_taps(x):
        padding = kernel // 2 * dilation
        return conv1d_weight(x, weight.shape, grad, padding=padding, dilation=dilation)
    if _are_short(x):
        of_all = grad.transpose(0, 1).flatten(1) @ _columns(x, kernel, dilation).mT  # (C', K·C)
        return of_all.unflatten(1, (kernel, x.shape[1])).mT
    taps = _taps(x, kernel, dilation)
    return torch.stack([torch.bmm(grad, tap.mT).sum(0) for tap in taps], dim=2)


def _can_accumulate_taps(x: Tensor) -> bool:
    """Whether adding tap after tap to the result rounds no more than a convolution would."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _are_short(x: Tensor) -> bool:
    """Whether windows (B, C, L) are so short that a product of each would cost more than copies."""
    return x.device.type == "cpu" and x.shape[2] < SHORT and not torch.compiler.is_compiling()


def _columns(x: Tensor, kernel: int, dilation: int) -> Tensor:
    """What each position of (B, C, L) sees, tap after tap: (K·C, B·L)."""
    seen = torch.stack(_taps(x.transpose(0, 1), kernel, dilation))  # (K, C, B, L)
    return seen.flatten(2).flatten(0, 1)


def _taps(x: Tensor, kernel: int, dilation: int) -> list[Tensor]:
    """Views of the padded input (…, L), one per tap: K × (…, L)."""
    reach = kernel // 2 * dilation
    padded = F.pad(x, (reach, reach)) if kernel > 1 else x
    return [padded[..., i * dilation : i * dilation + x.shape[-1]] for i in range(kernel)]


class ConvBlock(nn.Sequential):
    """BatchNorm → GELU → Conv1d with 'same' padding: (B, C, L) → (B, C', L)."""

    def __init__(self, dim: int, dim_out: int, kernel_size: int, dilation: int = 1):
        padding = kernel_size // 2 * dilation
        super().__init__(
            BatchNorm(dim),
            GELU(),
            nn.Conv1d(dim, dim_out, kernel_size, padding=padding, dilation=dilation),
        )

    def forward(self, input: Tensor) -> Tensor:
        """The three layers as one operation that keeps its input alone."""
        norm, conv = self[0], self[2]
        assert isinstance(norm, BatchNorm) and isinstance(conv, nn.Conv1d)
        return _NormActivateConvolve.apply(
            input,
            *norm.statistics(input),
            norm.weight,
            norm.bias,
            conv.weight,
            conv.bias,
            norm.eps,
            conv.dilation[0],
        )  # pyright: ignore[reportReturnType]


class ResidualConvBlock(nn.Module):
    """x + ConvBlock(x)."""

    def __init__(self, dim: int, kernel_size: int = 1, dilation: int = 1):
        super().__init__()
        self.block = ConvBlock(dim, dim, kernel_size, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L)."""
        return x + self.block(x)


class AttentionPool(nn.Module):
    """Softmax-weighted pooling of neighbouring pairs: (B, C, L) → (B, C, ⌈L/2⌉).

    Logits are a 1×1 product initialised at `sharpness` times the identity: at 2, as Enformer's,
    training starts close to max pooling, at 0 with the mean. The missing partner of an odd last
    position gets no weight.
    """

    def __init__(self, dim: int, sharpness: float = 2.0):
        super().__init__()
        self.to_logits = nn.Conv1d(dim, dim, 1, bias=False)
        with torch.no_grad():
            self.to_logits.weight.copy_(sharpness * torch.eye(dim)[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) → (B, C, ⌈L/2⌉)."""
        if x.shape[-1] % 2:  # a position paired with itself is kept as it is
            x = F.pad(x, (0, 1), mode="replicate")
        left, right = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, C, L/2)
        # Softmax over two is a sigmoid of their logits' difference, and logits are linear: half
        # the product, and nothing is kept for the backward pass but the difference and the share.
        difference = left - right
        share = torch.sigmoid(convolve(difference, self.to_logits.weight, None))
        return torch.addcmul(right, difference, share.to(x.dtype))


def centre_crop(x: Tensor, length: int, odd: Literal["exact", "released"] = "exact") -> Tensor:
    """Keep the `length` central positions of (B, N, D).

    Where an odd number is cropped away, the extra one goes at the end; or, as `released`, one more
    goes on either side, which leaves `length` − 1. Raises ValueError if there are fewer than
    `length`.
    """
    excess = x.shape[1] - length
    if excess < 0:
        raise ValueError(f"{x.shape[1]} bins cannot be cropped to {length}")
    if odd == "released":
        trim = (excess + 1) // 2
        return x[:, trim : x.shape[1] - trim]
    return x[:, excess // 2 : excess // 2 + length]
