"""An encoder of tokens: BERT with ALiBi and gated feed-forwards, as DNABERT-2 and Genomics-FM.

Shapes: B sequences of N tokens, D channels, H heads of width K, F width of the feed-forward, V
vocabulary, M selected tokens.
Sources: Devlin et al. 2019 (BERT); Press et al. 2022 (ALiBi); Shazeer 2020 (GEGLU); Portes et al.
2023 (MosaicBERT), who joined them.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from spacescale.encoder_config import EncoderConfig
from spacescale.model.kernels import GPU_ALIGNMENT, GPU_KERNELS

EPS = 1e-12  # of LayerNorms
INITIAL_STD = 0.02
SEGMENTS = 2  # BERT's first and second text; all tokens are of the first


def alibi_slopes(heads: int) -> list[float]:
    """How steeply the logits of each head fall with the distance between tokens.

    Of 2^n heads the k-th, from 1, has 2^(−8k / 2^n). Other numbers take those of the power of two
    below, then every second one of the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * k / power) for k in range(1, power + 1)]
    between = [2 ** (-4 * k / power) for k in range(1, 2 * power, 2)]
    return slopes + between[: heads - power]


def attention_bias(heads: int, attended: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits: attended bool (B, N) → (B, H, N, N).

    −slope · |i − j| of the head, and −inf where j is not attended. On GPUs its rows lie as the
    memory-efficient kernel wants them.
    """
    n, device = attended.shape[1], attended.device
    padding = -n % GPU_ALIGNMENT if attended.is_cuda else 0
    place = torch.arange(n + padding, device=device)
    distance = (place[:n, None] - place).abs()  # (N, ≥N)
    falling = -torch.tensor(alibi_slopes(heads), device=device)[:, None, None] * distance
    kept = F.pad(attended, (0, padding))[:, None, None]  # (B, 1, 1, ≥N)
    return falling.to(dtype).where(kept, -math.inf)[..., :n]


class Attention(nn.Module):
    """Multi-head self-attention, one product for queries, keys and values."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.attn_dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.output = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) and bias (B, H, N, N) → (B, N, D)."""
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, K)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, H, N, K)
        with sdpa_kernel(GPU_KERNELS) if x.is_cuda else nullcontext():
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
            )
        return self.output(out.transpose(1, 2).flatten(2))


class GatedFeedForward(nn.Module):
    """GEGLU: GELU of one half of a product times its other half, and back."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.gated = nn.Linear(config.dim, 2 * config.ffn_dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        gate, value = self.gated(x).chunk(2, dim=-1)  # (B, N, F) each
        return self.output(self.dropout(F.gelu(gate) * value))


class EncoderLayer(nn.Module):
    """Attention, then the feed-forward; LayerNorm after the residual of each."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.attention = Attention(config)
        self.dropout = nn.Dropout(config.dropout)
        self.attention_norm = nn.LayerNorm(config.dim, eps=EPS)
        self.feed_forward = GatedFeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim, eps=EPS)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, N, D) and bias (B, H, N, N) → (B, N, D)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, bias)))
        return self.feed_forward_norm(x + self.feed_forward(x))


class TokenHead(nn.Module):
    """From states to logits by the embeddings of the tokens themselves, which it is given."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        """(M, D) and embeddings (V, D) → (M, V)."""
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)


class Encoder(nn.Module):
    """Embeddings, layers, and a head that shares the embeddings.

    Sequences may have any length: places are known by ALiBi's distances alone. Weights begin normal
    with a standard deviation of INITIAL_STD, biases at 0.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        # Named so that weight decay takes them, as released (engine.NO_DECAY_MARKS).
        self.words = nn.Embedding(config.vocab_size, config.dim)
        self.segments = nn.Embedding(SEGMENTS, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.head = TokenHead(config)
        self.apply(_initialise)

    def forward(self, ids: Tensor, attended: Tensor, selected: Tensor) -> Tensor:
        """Logits (M, V) of the selected tokens, in order of rows and places.

        ids int64 (B, N); attended bool (B, N), False on what fills rows up; selected bool (B, N).
        """
        return self.head(self.states(ids, attended)[selected], self.words.weight)

    def states(self, ids: Tensor, attended: Tensor) -> Tensor:
        """What the last layer says of every token: ids int64, attended bool (B, N) → (B, N, D).

        Of what is not attended it is meaningless, and of the others it does not depend on it.
        """
        x = self.dropout(self.norm(self.words(ids) + self.segments.weight[0]))  # (B, N, D)
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        bias = attention_bias(self.config.heads, attended, dtype)  # (B, H, N, N)
        for layer in self.layers:
            x = layer(x, bias)
        return x


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
