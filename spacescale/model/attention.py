"""Self-attention with Enformer's relative positions.

Shapes: B batch, H heads, N positions, K key width, V value width, F positional features.
Source: Avsec et al. 2021 (Enformer), Methods, "relative positional encodings".
"""

import math
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacescale.model.kernels import GPU_ALIGNMENT, GPU_KERNELS


def positional_basis(
    num_positions: int,
    num_features: int,
    device: torch.device,
    gamma_scale: Literal["position", "feature"] = "position",
) -> Tensor:
    """Basis functions of the distance j − i, for distances −(N−1) … N−1.

    Returns float32 (2N−1, num_features): exponential, central-mask and gamma families, each once
    as is and once multiplied by the sign of the distance. `num_features` is a multiple of 6.
    `gamma_scale` says over what the gamma family is scaled to a maximum of 1: over the features at
    a distance, or each feature over the distances.
    """
    distance = torch.arange(1 - num_positions, num_positions, device=device, dtype=torch.float32)
    width = num_features // 6
    magnitude = distance.abs()[:, None]  # (2N-1, 1)
    symmetric = torch.cat(
        [
            _exponential(magnitude, width, num_positions),
            _central_mask(magnitude, width),
            _gamma(magnitude, width, num_positions, per_feature=gamma_scale == "feature"),
        ],
        dim=1,
    )
    return torch.cat([symmetric, distance.sign()[:, None] * symmetric], dim=1)


def _exponential(magnitude: Tensor, width: int, num_positions: int) -> Tensor:
    half_life = 2 ** torch.linspace(3.0, math.log2(num_positions), width, device=magnitude.device)
    return torch.exp(-math.log(2.0) / half_life * magnitude)


def _central_mask(magnitude: Tensor, width: int) -> Tensor:
    reach = 2.0 ** torch.arange(1, width + 1, device=magnitude.device) - 1
    return (reach > magnitude).float()


def _gamma(magnitude: Tensor, width: int, num_positions: int, per_feature: bool) -> Tensor:
    """Gamma densities with means spread over the length, scaled to a maximum of 1."""
    stddev = num_positions / (2 * width)
    mean = torch.linspace(num_positions / width, num_positions, width, device=magnitude.device)
    concentration, rate = (mean / stddev) ** 2, mean / stddev**2
    log_density = (
        torch.xlogy(concentration - 1, magnitude)
        - rate * magnitude
        - (torch.lgamma(concentration) - concentration * torch.log(rate))
    )
    density = log_density.exp() + 1e-8
    return density / density.amax(dim=0 if per_feature else 1, keepdim=True)


class Attention(nn.Module):
    """Multi-head attention, logits = content + relative position (Transformer-XL style biases).

    The relative logits of all 2N−1 distances are computed once; row i's window into them starts
    at N−1−i, which a strided view expresses. On GPUs they are padded so that this view is one
    that the kernel takes as it is; the padding is of queries and distances, not of the logits.
    """

    def __init__(self, dim: int, *, heads: int, dim_key: int, dropout: float, pos_dropout: float):
        super().__init__()
        self.heads, self.dim_key, self.dropout = heads, dim_key, dropout
        self.num_features = dim // heads
        self.to_q = nn.Linear(dim, heads * dim_key, bias=False)
        self.to_k = nn.Linear(dim, heads * dim_key, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)
        self.to_rel_k = nn.Linear(self.num_features, heads * dim_key, bias=False)
        self.rel_content_bias = nn.Parameter(torch.randn(1, heads, 1, dim_key))
        self.rel_pos_bias = nn.Parameter(torch.randn(1, heads, 1, dim_key))
        self.pos_dropout = nn.Dropout(pos_dropout)

    def forward(self, x: Tensor, basis: Tensor) -> Tensor:
        """(B, N, D) and the positional basis (2N−1, F) → (B, N, D)."""
        batch, n, dim = x.shape
        q = self._split_heads(self.to_q(x)) * self.dim_key**-0.5  # (B, H, N, K)
        k = self._split_heads(self.to_k(x))
        v = self._split_heads(self.to_v(x))
        rel_k = self.to_rel_k(self.pos_dropout(basis).to(x.dtype))  # (2N-1, H*K)
        rel_k = rel_k.view(2 * n - 1, self.heads, -1).permute(1, 2, 0)  # (H, K, 2N-1)
        alignment = GPU_ALIGNMENT if x.is_cuda else 1
        bias = relative_logits(q + self.rel_pos_bias, rel_k, alignment)  # (B, H, N, N)
        content = (q + self.rel_content_bias).to(v.dtype)
        with sdpa_kernel(GPU_KERNELS) if x.is_cuda else nullcontext():
            out = F.scaled_dot_product_attention(
                content,
                k,
                v,
                attn_mask=bias.to(v.dtype),
                dropout_p=self.dropout if self.training else 0.0,
                scale=1.0,
            )
        return self.to_out(out.transpose(1, 2).reshape(batch, n, dim))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def relative_logits(queries: Tensor, rel_k: Tensor, alignment: int) -> Tensor:
    """Queries (B, H, N, K) by the distances' keys (H, K, 2N−1) → logits by position (B, H, N, N).

    The offset and all strides of the result but the last, 1, are multiples of `alignment`.
    """
    n = queries.shape[2]
    columns = (1 - n) % alignment  # on either side: a row's stride is the width less 1
    if alignment > 1:
        queries = F.pad(queries, (0, 0, 0, -n % alignment))
        rel_k = F.pad(rel_k, (columns, columns))
    return relative_shift(torch.matmul(queries, rel_k), n, columns + n - 1)


class _RelativeShift(torch.autograd.Function):
    """`as_strided` with a backward pass that knows that no two entries of the view overlap."""

    @staticmethod
    def forward(ctx, relative: Tensor, n: int, zero: int) -> Tensor:
        ctx.shape, ctx.n, ctx.zero = relative.shape, n, zero
        return _shifted_view(relative, n, zero)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        relative = grad.new_zeros(ctx.shape)
        _shifted_view(relative, ctx.n, ctx.zero).copy_(grad)
        return relative, None, None


def relative_shift(relative: Tensor, n: int, zero: int) -> Tensor:
    """Logits by distance (B, H, ≥N, ≥2N−1) → by position (B, H, N, N), as a view.

    Entry (i, j) of the result is the logit of distance j − i, column `zero` + j − i of row i.
    """
    return _RelativeShift.apply(relative.contiguous(), n, zero)  # pyright: ignore[reportReturnType]


def _shifted_view(relative: Tensor, n: int, zero: int) -> Tensor:
    batch, heads, _, width = relative.shape
    return relative.as_strided(
        (batch, heads, n, n),
        (relative.stride(0), relative.stride(1), width - 1, 1),
        relative.storage_offset() + zero,
    )


def attention_kernel(attention: Attention, n: int, like: Tensor) -> str:
    """Name of the kernel that torch chooses to train this layer on N positions: "math",
    "flash_attention" or "efficient_attention". `like` has the device and type of its products.
    """
    heads, key, alignment = attention.heads, attention.dim_key, GPU_ALIGNMENT if like.is_cuda else 1
    q, k, v = (
        like.new_empty(1, n, heads, width).transpose(1, 2).requires_grad_()
        for width in (key, key, attention.num_features)
    )
    bias = relative_logits(q, like.new_empty(heads, key, 2 * n - 1), alignment)
    with sdpa_kernel(GPU_KERNELS) if like.is_cuda else nullcontext():
        chosen = torch._fused_sdp_choice(  # pyright: ignore[reportPrivateImportUsage]
            q, k, v, bias, attention.dropout, scale=1.0
        )
    return SDPBackend(chosen).name.lower()
