"""Convolutional building blocks of the trunk (Enformer's, as SPACE uses them).

Shapes: B batch, C channels, L positions.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_BASES = 4


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
        return torch.sigmoid(1.702 * x) * x


class ConvBlock(nn.Sequential):
    """BatchNorm → GELU → Conv1d with 'same' padding: (B, C, L) → (B, C', L)."""

    def __init__(self, dim: int, dim_out: int, kernel_size: int):
        super().__init__(
            nn.BatchNorm1d(dim),
            GELU(),
            nn.Conv1d(dim, dim_out, kernel_size, padding=kernel_size // 2),
        )


class ResidualConvBlock(nn.Module):
    """x + ConvBlock(x) with kernel 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.block = ConvBlock(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L)."""
        return x + self.block(x)


class AttentionPool(nn.Module):
    """Softmax-weighted pooling of neighbouring pairs: (B, C, L) → (B, C, ⌈L/2⌉).

    Logits are a 1×1 product initialised at twice the identity, so that training starts close to
    max pooling. The missing partner of an odd last position gets no weight.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.to_logits = nn.Conv1d(dim, dim, 1, bias=False)
        with torch.no_grad():
            self.to_logits.weight.copy_(2 * torch.eye(dim)[:, :, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) → (B, C, ⌈L/2⌉)."""
        logits = self.to_logits(x)
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
            logits = F.pad(logits, (0, 1), value=torch.finfo(logits.dtype).min)
        # Softmax over two equals a sigmoid of their difference, without the (B, C, L/2, 2) copies.
        left = torch.sigmoid(logits[..., 0::2] - logits[..., 1::2])  # (B, C, L/2)
        return torch.lerp(x[..., 1::2], x[..., 0::2], left.to(x.dtype))


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
