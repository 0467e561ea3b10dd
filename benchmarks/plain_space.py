"""The plain statement of the model: the same weights and results, nothing done for speed.

`one_species_at_a_time` makes one pass per species; convolution blocks are torch's own layers one
after the other; pooling is a softmax over pairs; attention computes the positional basis in every
layer and aligns its logits by padding and reshaping; experts run in a loop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.model.attention import Attention, positional_basis
from spacescale.model.experts import StackedExperts
from spacescale.model.layers import AttentionPool, BatchNorm, ConvBlock
from spacescale.model.router import RoutingSums
from spacescale.model.space import Space, SpaceOutput


class PlainConvBlock(ConvBlock):
    """Three layers, each keeping what its backward pass needs."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, L) → (B, C', L)."""
        return nn.Sequential.forward(self, input)


class PlainBatchNorm(BatchNorm):
    """torch's BatchNorm1d."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L)."""
        return nn.BatchNorm1d.forward(self, input)


class PlainAttentionPool(AttentionPool):
    """Softmax over the two logits of each pair; even lengths."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) → (B, C, L/2)."""
        pairs = x.unflatten(-1, (-1, 2))
        weights = self.to_logits(x).unflatten(-1, (-1, 2)).softmax(-1)
        return (pairs * weights).sum(-1)


class PlainAttention(Attention):
    """Every matrix of the textbook, every time."""

    def forward(self, x: Tensor, basis: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D); the basis given is computed again."""
        n = x.shape[1]
        q = self._split_heads(self.to_q(x)) * self.dim_key**-0.5
        k, v = self._split_heads(self.to_k(x)), self._split_heads(self.to_v(x))
        basis = self.pos_dropout(positional_basis(n, self.num_features, x.device))
        rel_k = self.to_rel_k(basis).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)
        content = torch.matmul(q + self.rel_content_bias, k.transpose(-1, -2))
        relative = pad_and_reshape(torch.matmul(q + self.rel_pos_bias, rel_k))
        weights = F.dropout((content + relative).softmax(-1), self.dropout, self.training)
        return self.to_out(torch.matmul(weights, v).transpose(1, 2).flatten(2))


def pad_and_reshape(relative: Tensor) -> Tensor:
    """Transformer-XL's relative shift: (B, H, N, 2N−1) → (B, H, N, N)."""
    batch, heads, n, width = relative.shape
    padded = F.pad(relative, (1, 0)).reshape(batch, heads, width + 1, n)[:, :, 1:]
    return padded.reshape(batch, heads, n, width)[..., :n]


class LoopedExperts(StackedExperts):
    """One expert after the other, on every device."""

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """(R, D) rows sorted by expert → (R, D)."""
        bias_in, bias_out = self.w3[:, 0].split([self.hidden, self.dim], dim=1)
        outputs = []
        for expert, chunk in enumerate(rows.split(counts.tolist())):
            h = F.relu(F.linear(chunk, self.w1[expert], bias_in[expert]))
            outputs.append(F.linear(self.hidden_dropout(h), self.w2[expert], bias_out[expert]))
        return self.out_dropout(torch.cat(outputs))


PLAIN = {
    ConvBlock: PlainConvBlock,
    BatchNorm: PlainBatchNorm,
    AttentionPool: PlainAttentionPool,
    Attention: PlainAttention,
    StackedExperts: LoopedExperts,
}


def make_plain(model: Space) -> Space:
    """Give every part of `model` its plain forward pass, in place."""
    for module in model.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return model


def one_species_at_a_time(model: Space, codes: dict[str, Tensor]) -> SpaceOutput:
    """What `model(codes)` returns, from one pass per species."""
    outputs = [model({name: windows}) for name, windows in codes.items()]
    whole = outputs[0]
    for part in outputs[1:]:
        whole.prediction |= part.prediction
        whole.enhanced |= part.enhanced
        whole.encoder_routing = [
            _added(*pair) for pair in zip(whole.encoder_routing, part.encoder_routing, strict=True)
        ]
        if whole.decoder_routing is not None and part.decoder_routing is not None:
            whole.decoder_routing = _added(whole.decoder_routing, part.decoder_routing)
    return whole


def _added(first: RoutingSums, second: RoutingSums) -> RoutingSums:
    return RoutingSums(*(a + b for a, b in zip(first, second, strict=True)))
