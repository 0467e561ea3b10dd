"""Experts, attention and BatchNorm's moments in the forms one could choose, forward and backward.

    python benchmarks/gpu_layers.py {experts,attention,moments} --json FILE

Every form gets the same numbers and must give the same result and gradients. Sizes are of a
micro-batch of 4 windows of `space_large`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_measure import (
    Figures,
    Setting,
    agreement,
    milliseconds,
    peak_gib,
    release_memory,
    run_part,
)
from plain_space import PlainAttention
from torch import Tensor, nn

from spacescale.model.attention import (
    Attention,
    attention_kernel,
    positional_basis,
    relative_logits,
)
from spacescale.model.experts import StackedExperts, has_grouped_product
from spacescale.model.layers import moments
from spacescale.planning.flops import experts_per_track

WINDOWS = 4


def experts(figures: Figures) -> None:
    """One expert after the other against the grouped product, for encoder and decoder."""
    setting = figures.setting
    config = setting.config(setting.lengths[0]).model
    tokens = WINDOWS * config.num_tokens * config.species_top_k
    tracks = sum(len(t) for t in config.species.values()) // len(config.species)
    profiles = int(WINDOWS * tracks * experts_per_track(config))
    for case, width, number, rows in (
        ("encoder, 4 experts", config.dim, config.species_num_experts, tokens),
        ("encoder, 24 experts", config.dim, 24, tokens),
        ("decoder, 8 experts", config.target_length, config.tracks_num_experts, profiles),
    ):
        torch.manual_seed(0)
        layer = StackedExperts(number, width, 2 * width, 0.0, out_dropout=False)
        layer = layer.to(setting.device)
        x = torch.randn(rows, width, device=setting.device, dtype=setting.dtype)
        counts = uneven_counts(rows, number).to(setting.device)
        expected = gradients(setting, layer, layer._run_in_turn, x, counts)
        forms = {"in turn": layer._run_in_turn, "chosen by the model": layer}
        if has_grouped_product(setting.device) or setting.toy:
            forms["grouped"] = layer._run_grouped
        for name, form in forms.items():
            run = partial(gradients, setting, layer, form, x, counts)
            flops = 3 * 2 * 2 * rows * width * 2 * width
            figures.measure(f"{case}, {name}", partial(compared, setting, run, expected, flops))
        del x, expected, layer, forms, form, run
        release_memory()


def uneven_counts(rows: int, number: int) -> Tensor:
    """Rows per expert: one has none, the others more and more."""
    shares = torch.arange(number, dtype=torch.float64)
    counts = (rows * shares / shares.sum()).long()
    counts[-1] += rows - counts.sum()
    return counts


def gradients(
    setting: Setting, layer: nn.Module, form: Callable[..., Tensor], x: Tensor, *others: Tensor
) -> list[Tensor]:
    """Output, and gradients of x and all parameters, for a fixed gradient of the output."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    with torch.autocast(setting.device.type, torch.bfloat16, enabled=not setting.toy):
        out = form(x, *others)
    out.backward(out.detach() / out.detach().abs().max())
    found = [x.grad, *(p.grad for p in layer.parameters())]
    return [out.detach(), *(g for g in found if g is not None)]


def compared(
    setting: Setting, run: Callable[[], list[Tensor]], expected: list[Tensor], flops: float
) -> dict[str, Any]:
    """Time, rate and peak memory of a form, and whether it is right."""
    dtype = torch.bfloat16 if setting.toy else setting.dtype  # grouped products are bf16
    close = agreement(run(), expected, dtype)
    ms = milliseconds(run, setting.device)
    return {"ms": ms, "tflops": flops / ms / 1e9, "peak_gib": peak_gib(setting.device)} | close


def attention(figures: Figures) -> None:
    """The layer as now, with a bias as torch copies it, stated plainly, and by FlexAttention."""
    setting = figures.setting
    for length in setting.lengths:
        config = setting.config(length).model
        n = config.num_tokens
        torch.manual_seed(0)
        layer = Attention(
            config.dim,
            heads=config.heads,
            dim_key=config.attn_dim_key,
            dropout=0.0,
            pos_dropout=0.0,
        )
        nn.init.normal_(layer.to_out.weight, std=0.01)
        layer = layer.to(setting.device).train()
        x = torch.randn(WINDOWS, n, config.dim, device=setting.device, dtype=setting.dtype)
        basis = positional_basis(n, layer.num_features, setting.device)
        flops = 3 * 2 * WINDOWS * n * layer_products(config, n)
        figures.add(f"{length} bp", kernel=attention_kernel(layer, n, x))
        forms = {"plain": PlainAttention, "as now": Attention, "bias not aligned": NotAligned}
        if not setting.toy:
            forms["flex, compiled"] = Flex
        layer.__class__ = PlainAttention
        expected = gradients(setting, layer, layer, x, basis)
        for name, kind in forms.items():
            for rate in (0.0, config.attn_dropout) if kind is Attention else (0.0,):
                layer.__class__, layer.dropout = kind, rate
                run = partial(gradients, setting, layer, layer, x, basis)
                case = f"{length} bp, {name}" + (f", dropout {rate}" if rate else "")
                if rate:
                    figures.measure(case, partial(timed, setting, run, flops))
                else:
                    figures.measure(case, partial(compared, setting, run, expected, flops))
        del layer, x, expected, run
        release_memory()


def layer_products(config, n: int) -> float:
    """Multiplications per token of an attention layer: projections, logits, distances, values."""
    keys = config.heads * config.attn_dim_key
    return config.dim * (2 * keys + 2 * config.dim) + n * (keys + config.dim) + (2 * n - 1) * keys


def timed(setting: Setting, run: Callable[[], list[Tensor]], flops: float) -> dict[str, Any]:
    """Time, rate and peak memory, with nothing to compare."""
    ms = milliseconds(run, setting.device)
    return {"ms": ms, "tflops": flops / ms / 1e9, "peak_gib": peak_gib(setting.device)}


class NotAligned(Attention):
    """The bias as it lies by itself, which torch's efficient kernel has copied."""

    def forward(self, x: Tensor, basis: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        q, k, v, rel_k = projections(self, x, basis)
        bias = relative_logits(q + self.rel_pos_bias, rel_k, alignment=1)
        out = torch.nn.functional.scaled_dot_product_attention(
            (q + self.rel_content_bias).to(v.dtype), k, v, attn_mask=bias.to(v.dtype), scale=1.0
        )
        return self.to_out(out.transpose(1, 2).flatten(2))


class Flex(Attention):
    """FlexAttention, which looks each logit up by its distance; compiled, without dropout."""

    def forward(self, x: Tensor, basis: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        from torch.nn.attention.flex_attention import flex_attention

        n = x.shape[1]
        q, k, v, rel_k = projections(self, x, basis)
        relative = torch.matmul(q + self.rel_pos_bias, rel_k).to(v.dtype)

        def shifted(score, b, h, i, j):
            return score + relative[b, h, i, n - 1 + j - i]

        attend = torch.compile(flex_attention)
        content = (q + self.rel_content_bias).to(v.dtype).contiguous()
        out = attend(content, k.contiguous(), v.contiguous(), score_mod=shifted, scale=1.0)
        return self.to_out(out.transpose(1, 2).flatten(2))


def projections(layer: Attention, x: Tensor, basis: Tensor) -> tuple[Tensor, ...]:
    """Scaled queries, keys and values (B, H, N, ·), and the distances' keys (H, K, 2N−1)."""
    q = layer._split_heads(layer.to_q(x)) * layer.dim_key**-0.5
    k, v = layer._split_heads(layer.to_k(x)), layer._split_heads(layer.to_v(x))
    rel_k = layer.to_rel_k(basis.to(x.dtype)).unflatten(-1, (layer.heads, -1))
    return q, k, v, rel_k.permute(1, 2, 0)


def moments_in_forms(figures: Figures) -> None:
    """Mean and variance of the longest activations, forward and backward: as now, and plainly."""
    setting, length = figures.setting, figures.setting.lengths[0]
    half = setting.config(length).model.dim // 2
    x = 3 + torch.randn(1 if setting.toy else WINDOWS, half, length, device=setting.device)
    x = x.to(setting.dtype)
    expected = moment_gradients(plain_moments, x)
    for name, form in {"plain": plain_moments, "as now": moments}.items():
        run = partial(moment_gradients, form, x)
        figures.measure(name, partial(moments_compared, setting, run, expected, x.nbytes))


def plain_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two passes over a copy in fp32."""
    wide = x.float()
    mean = wide.mean((0, 2))
    return mean, (wide - mean[:, None]).square().mean((0, 2))


def moment_gradients(form: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> list[Tensor]:
    """Mean, variance, and the gradient of x."""
    x = x.detach().requires_grad_()
    mean, variance = form(x)
    (mean.sum() + variance.square().sum()).backward()
    assert x.grad is not None
    return [mean.detach(), variance.detach(), x.grad]


def moments_compared(
    setting: Setting, run: Callable[[], list[Tensor]], expected: list[Tensor], size: int
) -> dict[str, Any]:
    """Time, memory beside the input's, and agreement: statistics to 1e-5, gradients to rounding."""
    found = run()
    close = agreement(found[2:], expected[2:], setting.dtype)
    close |= agreement(found[:2], expected[:2], torch.float32)
    del found
    release_memory()
    ms = milliseconds(run, setting.device)
    return {"ms": ms, "input_gib": size / 2**30, "peak_gib": peak_gib(setting.device)} | close


if __name__ == "__main__":
    run_part(__doc__, {"experts": experts, "attention": attention, "moments": moments_in_forms})
