"""The convolutions of stem and tower in the forms one could choose, forward and backward.

    python benchmarks/gpu_convolutions.py {convolutions,stages} --json FILE

`convolutions`: each one bare. `stages`: each with its normalisation, GELU, residual and pooling.
Every form gets the same numbers and must give the same result and gradients; `as now` is the
form that the model has. Sizes are of 4 windows of 196,608 bp.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from gpu_measure import (
    Figures,
    Setting,
    agreement,
    milliseconds,
    peak_gib,
    release_memory,
    run_part,
)
from plain_space import PLAIN
from torch import Tensor, nn

from spacescale.model.layers import (
    NUM_BASES,
    AttentionPool,
    ConvBlock,
    ResidualConvBlock,
    convolve,
    convolve_backward_input,
    convolve_backward_weight,
)
from spacescale.planning.flops import STEM_KERNEL, TOWER_KERNEL, tower_stages

Form = Callable[[Tensor, Tensor, Tensor], list[Tensor]]  # x, weight, grad → output, both gradients


def shapes(setting: Setting) -> dict[str, tuple[int, int, int, int, int]]:
    """Convolution → (windows, length, channels in, channels out, kernel)."""
    length, windows = setting.lengths[0], 1 if setting.toy else 4
    config = setting.config(length).model
    width = config.stem_channels
    found = {
        "stem k15": (windows, length, NUM_BASES, width, STEM_KERNEL),
        "stem k1": (windows, length, width, width, 1),
    }
    for i, (positions, c_in, c_out) in enumerate(tower_stages(config)):
        found[f"tower {i} k5"] = windows, positions, c_in, c_out, TOWER_KERNEL
        found[f"tower {i} k1"] = windows, positions, c_out, c_out, 1
    return found


def as_now(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """What `ConvBlock` calls: (B, C, L) throughout, torch's convolution on GPUs."""
    return [
        convolve(x, weight, None),
        convolve_backward_input(grad, weight),
        convolve_backward_weight(grad, x, weight),
    ]


def fastest_algorithm(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """The same, cuDNN trying its algorithms first."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        return as_now(x, weight, grad)
    finally:
        torch.backends.cudnn.benchmark = before


def _backward(x: Tensor, weight: Tensor, grad: Tensor, padding: list[int]) -> list[Tensor]:
    ones = [1] * len(padding)
    zeros = [0] * len(padding)
    return list(
        torch.ops.aten.convolution_backward(
            grad, x, weight, None, ones, padding, ones, False, zeros, 1, [True, True, False]
        )[:2]
    )


def channels_last(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """A convolution of images one pixel high whose channels lie together; x and grad are so."""
    kernel, last = weight.shape[2], {"memory_format": torch.channels_last}
    w = weight[:, :, None].contiguous(**last)
    out = F.conv2d(x, w, padding=(0, kernel // 2))
    return [out, *_backward(x, w, grad, [0, kernel // 2])]


def per_tap(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """A matrix product per tap, channels last: x (B, L, C). Taps add up in the result's type."""
    kernel = weight.shape[2]
    taps, flipped = _taps_last(x, kernel), _taps_last(grad, kernel)[::-1]
    w = weight.permute(2, 1, 0)  # (K, C, C')
    out = _sum_of_products(taps, w)
    grad_x = _sum_of_products(flipped, w.mT)
    grad_w = torch.stack([torch.einsum("blc,bld->dc", tap, grad) for tap in taps], dim=2)
    return [out, grad_x, grad_w]


def _taps_last(x: Tensor, kernel: int) -> list[Tensor]:
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2)) if kernel > 1 else x
    return [padded[:, i : i + x.shape[1]] for i in range(kernel)]


def _sum_of_products(taps: list[Tensor], w: Tensor) -> Tensor:
    batch = taps[0].shape[0]
    out = torch.bmm(taps[0], w[0].expand(batch, -1, -1))
    for tap, weight in zip(taps[1:], w[1:], strict=True):
        out.baddbmm_(tap, weight.expand(batch, -1, -1))
    return out


# name → the form, and how it wants x and grad to lie and gives its results
FORMS: dict[str, tuple[Form, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "as now": (as_now, lambda t: t, lambda t: t),
    "as now, cudnn.benchmark": (fastest_algorithm, lambda t: t, lambda t: t),
    "channels last": (
        channels_last,
        lambda t: t[:, :, None].contiguous(memory_format=torch.channels_last),
        lambda t: t.squeeze(2) if t.ndim == 4 else t,
    ),
    "per tap": (
        per_tap,
        lambda t: t.mT.contiguous(),
        lambda t: t.mT,
    ),
}


def convolutions(figures: Figures) -> None:
    """Every convolution in every form, and by the compiler from its plain statement."""
    for case, shape in shapes(figures.setting).items():
        x, weight, grad = operands(figures.setting, *shape)
        expected = as_now(x, weight, grad)
        for name, (form, lay, back) in FORMS.items():
            run = partial(form, lay(x), weight, lay(grad))
            work = partial(one_form, figures.setting, run, back, expected, shape)
            figures.measure(f"{case}, {name}", work)
        del x, weight, grad, expected
        release_memory()


def operands(
    setting: Setting, windows: int, length: int, c_in: int, c_out: int, kernel: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Random x (B, C, L), weight (C', C, K) and gradient (B, C', L)."""
    generator = torch.Generator(setting.device).manual_seed(0)

    def draw(*size: int) -> Tensor:
        like = {"generator": generator, "device": setting.device, "dtype": setting.dtype}
        return torch.randn(size, **like)

    scale = (c_in * kernel) ** -0.5
    return (
        draw(windows, c_in, length),
        scale * draw(c_out, c_in, kernel),
        draw(windows, c_out, length),
    )


def one_form(
    setting: Setting,
    run: Callable[[], list[Tensor]],
    back: Callable[[Tensor], Tensor],
    expected: list[Tensor],
    shape: tuple[int, int, int, int, int],
) -> dict[str, Any]:
    """Time, rate and peak memory of forward and backward, and whether they are right."""
    out, grad_x, grad_w = run()
    found = [back(out), back(grad_x), grad_w.view_as(expected[2])]
    figures = agreement(found, expected, setting.dtype)
    del out, grad_x, grad_w, found
    ms = milliseconds(run, setting.device)
    windows, length, c_in, c_out, kernel = shape
    flops = 6 * windows * length * c_in * c_out * kernel
    return {"ms": ms, "tflops": flops / ms / 1e9, "peak_gib": peak_gib(setting.device)} | figures


def stages(figures: Figures) -> None:
    """Stem and tower stages as wholes: as now, stated plainly, and either compiled."""
    setting = figures.setting
    for case, (windows, length, c_in, c_out, kernel) in shapes(setting).items():
        if kernel == 1:
            continue
        first = nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2)
        torch.manual_seed(0)
        block = first if c_in == NUM_BASES else ConvBlock(c_in, c_out, kernel)
        stage = nn.Sequential(block, ResidualConvBlock(c_out), AttentionPool(c_out))
        stage = stage.to(setting.device).train()
        x = operands(setting, windows, length, c_in, c_out, kernel)[0]
        expected = forward_backward(setting, stage, x)
        compiler = "aot_eager" if setting.toy else "inductor"
        for name in ("as now", "as now, compiled", "plain", "plain, compiled"):
            if name == "plain":
                for module in stage.modules():
                    module.__class__ = PLAIN.get(type(module), type(module))
            run = torch.compile(stage, backend=compiler) if "compiled" in name else stage
            work = partial(one_stage, setting, run, x, expected)
            figures.measure(f"{case.split(' k')[0]} stage, {name}", work)
        del stage, run, x, expected, work
        torch.compiler.reset()
        release_memory()


def forward_backward(
    setting: Setting, stage: Callable[[Tensor], Tensor], x: Tensor
) -> list[Tensor]:
    """Output and the gradient of the input, for a gradient of ones times the output's sign."""
    x = x.detach().requires_grad_()
    with torch.autocast(setting.device.type, torch.bfloat16, enabled=not setting.toy):
        out = stage(x)
    out.backward(out.detach().sign())
    assert x.grad is not None
    return [out.detach(), x.grad]


def one_stage(
    setting: Setting, stage: Callable[[Tensor], Tensor], x: Tensor, expected: list[Tensor]
) -> dict[str, Any]:
    """Time and peak memory of a stage, forward and backward."""
    found = forward_backward(setting, stage, x)
    close = agreement(found[:1], expected[:1], setting.dtype)  # gradients turn on single signs
    del found
    ms = milliseconds(lambda: forward_backward(setting, stage, x), setting.device, repeats=5)
    return {"ms": ms, "peak_gib": peak_gib(setting.device)} | close


if __name__ == "__main__":
    run_part(__doc__, {"convolutions": convolutions, "stages": stages})
