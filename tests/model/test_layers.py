import copy
import shutil

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from spacescale.model.layers import (
    GELU,
    SHORT,
    AttentionPool,
    ConvBlock,
    ResidualConvBlock,
    centre_crop,
    one_hot,
    scale_and_shift,
    tower_channels,
)
from spacescale.model.space import Space
from spacescale.space_config import ModelConfig


def random_pool(channels: int) -> AttentionPool:
    pool = AttentionPool(channels).double()
    with torch.no_grad():
        pool.to_logits.weight += torch.randn_like(pool.to_logits.weight)
    return pool


def softmax_pool(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The definition: the softmax over the logits of each pair weighs its two positions."""
    logits = torch.einsum("dc,bcl->bdl", weight[:, :, 0], x)
    pairs = zip(x.split(2, dim=-1), logits.split(2, dim=-1), strict=True)
    return torch.stack([(p * q.softmax(-1)).sum(-1) for p, q in pairs], dim=-1)


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_attention_pool_is_a_softmax_over_each_pair(length):
    torch.manual_seed(0)
    pool, x = random_pool(5), torch.randn(2, 5, length, dtype=torch.float64, requires_grad=True)
    found, expected = pool(x), softmax_pool(x, pool.to_logits.weight)
    assert found.shape == (2, 5, (length + 1) // 2)
    torch.testing.assert_close(found, expected)
    sensitivity = torch.randn_like(found)
    inputs = (x, pool.to_logits.weight)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, sensitivity),
        torch.autograd.grad(expected, inputs, sensitivity),
    )


def test_attention_pool_keeps_an_odd_last_position_as_it_is():
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(random_pool(3)(x)[..., -1], x[..., -1])


def test_attention_pool_survives_logits_of_any_size():
    x = torch.tensor([[[1e30, -1e30, -1e30]]], requires_grad=True)
    pooled = AttentionPool(1)(x)
    assert pooled.tolist() == [[[pytest.approx(1e30), pytest.approx(-1e30)]]]
    pooled.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_attention_pool_starts_as_sharp_as_asked():
    x = torch.tensor([[[0.0, 8.0]], [[4.0, -4.0]]])
    assert AttentionPool(1)(x).flatten().tolist() == pytest.approx([8.0, 4.0], abs=1e-4)
    assert AttentionPool(1, sharpness=0.0)(x).flatten().tolist() == [4.0, 0.0]
    config = ModelConfig(
        species={"finch": ("rna",)}, seq_length=256, target_length=4, num_downsamples=5, dim=48,
        dim_divisible_by=12, depth=1, heads=2, pool_sharpness=0.5,
    )  # fmt: skip
    pools = [m for m in Space(config).modules() if isinstance(m, AttentionPool)]
    assert len(pools) == config.num_downsamples
    for pool in pools:
        weight = pool.to_logits.weight[:, :, 0]
        assert torch.equal(weight, 0.5 * torch.eye(len(weight)))


def test_attention_pool_gradients():
    x = torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(random_pool(3), x)


def test_one_hot_leaves_unknown_bases_zero():
    codes = torch.tensor([[0, 1, 2, 3, 4, 255]], dtype=torch.uint8)
    expected = torch.cat([torch.eye(4), torch.zeros(4, 2)], dim=1)[None]
    assert torch.equal(one_hot(codes, torch.float32), expected)


def test_tower_channels_of_the_published_model():
    assert tower_channels(768, 1536, 6, 128) == [768, 896, 1024, 1152, 1280, 1536]
    assert tower_channels(24, 48, 1, 8) == [48]


@pytest.mark.parametrize("length, kept", [(4, [1, 2, 3, 4]), (3, [1, 2, 3]), (6, list(range(6)))])
def test_centre_crop_keeps_exactly_the_length_asked_for(length, kept):
    """An odd remainder drops one more at the end, where the released code loses a bin."""
    x = torch.arange(6.0)[None, :, None]
    assert centre_crop(x, length).flatten().tolist() == kept


def test_centre_crop_refuses_to_grow():
    with pytest.raises(ValueError, match="6 bins cannot be cropped to 7"):
        centre_crop(torch.zeros(1, 6, 1), 7)


def plain_block(block: ConvBlock) -> nn.Sequential:
    """torch's own layers with the weights of `block`."""
    norm, conv = block[0], block[2]
    plain = nn.Sequential(
        nn.BatchNorm1d(norm.num_features, momentum=norm.momentum),
        GELU(),
        nn.Conv1d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            padding=conv.padding,
            dilation=conv.dilation,
        ),
    ).to(conv.weight.dtype)
    plain.load_state_dict(block.state_dict())
    return plain.train(block.training)


def random_block(channels: int, out: int, kernel: int, dilation: int = 1) -> ConvBlock:
    torch.manual_seed(kernel)
    block = ConvBlock(channels, out, kernel, dilation)
    with torch.no_grad():
        for tensor in (block[0].weight, block[0].bias, block[0].running_mean):
            tensor += 0.3 * torch.randn_like(tensor)
    return block


def run_block(block: nn.Module, x: torch.Tensor, bf16: bool = False) -> dict[str, torch.Tensor]:
    """Output, gradients, and what the buffers hold afterwards."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = block(x)
    (y.to(x.dtype) * torch.linspace(-1, 2, y.shape[-1], dtype=x.dtype)).square().sum().backward()
    found = {name: p.grad for name, p in block.named_parameters()}
    block.zero_grad()
    return found | dict(block.named_buffers()) | {"y": y.detach(), "x": x.grad}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize(
    "kernel, length", [(1, 1), (1, 7), (1, SHORT), (5, 1), (5, 2), (5, SHORT - 1), (5, SHORT)]
)
def test_conv_block_is_norm_then_activation_then_convolution(training, dilation, kernel, length):
    block = random_block(4, 3, kernel, dilation).double().train(training)
    x = 2 * torch.randn(3, 4, length, dtype=torch.float64) + 1
    plain = plain_block(block)
    torch.testing.assert_close(run_block(block, x), run_block(plain, x))


def test_conv_block_gradients():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    block = random_block(3, 2, 5).double()
    block[0].track_running_stats = False
    parameters = tuple(block.parameters())

    def run(x, *_):
        return block(x)

    assert gradcheck(run, (x, *parameters))
    block.eval()
    assert gradcheck(run, (x, *parameters))


def test_conv_block_keeps_its_input_alone():
    block, x = random_block(4, 6, 5), torch.randn(2, 4, 50, requires_grad=True)
    kept = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.add((t.data_ptr(), t.numel())) or t, lambda t: t
    ):
        block(x)
    assert {pointer for pointer, size in kept if size >= x.numel()} == {x.data_ptr()}


def test_conv_block_without_tracking_uses_the_batch_and_stores_nothing():
    block, x = random_block(4, 3, 1), torch.randn(2, 4, 9)
    expected = run_block(plain_block(block), x)
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    block[0].track_running_stats = False
    found = run_block(block, x)
    torch.testing.assert_close({n: found[n] for n in before}, before)
    torch.testing.assert_close(found["y"], expected["y"])


def test_conv_block_needs_two_values_for_batch_statistics():
    with pytest.raises(ValueError, match="more than one value"):
        random_block(4, 3, 1)(torch.randn(1, 4, 1))


@pytest.mark.parametrize("kernel, dilation", [(1, 1), (5, 1), (5, 4)])
def test_conv_block_under_autocast_convolves_in_bf16_and_counts_in_float32(kernel, dilation):
    block, x = random_block(8, 8, kernel, dilation), torch.randn(2, 8, 300)
    exact = run_block(plain_block(block).double(), x.double())
    usual = run_block(plain_block(block), x.bfloat16(), bf16=True)
    found = run_block(block, x.bfloat16(), bf16=True)
    assert found["y"].dtype == found["x"].dtype == torch.bfloat16
    assert found["0.running_var"].dtype == found["2.weight"].dtype == torch.float32
    for name in ("y", "x", "0.weight", "0.bias", "2.weight", "2.bias", "0.running_var"):
        scale = exact[name].abs().max()
        error, allowed = ((t[name] - exact[name]).abs().max() / scale for t in (found, usual))
        assert error < max(2 * allowed, 1e-3), name


@pytest.mark.slow  # the whole model is compiled by default, in test_compile.py
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_equal_eager_ones():
    torch.manual_seed(0)
    eager = nn.Sequential(ConvBlock(6, 8, 5), ResidualConvBlock(8), AttentionPool(8))
    x = torch.randn(2, 6, 33)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True)
    found = {n.removeprefix("_orig_mod."): t for n, t in run_block(compiled, x).items()}
    torch.testing.assert_close(found, run_block(eager, x), rtol=1e-4, atol=1e-4)


def test_residual_block_adds_its_input():
    residual = ResidualConvBlock(2).eval()
    x = torch.randn(1, 2, 9)
    torch.testing.assert_close(residual(x) - x, residual.block(x))


def test_scale_and_shift_is_the_gradient_of_moments():
    """The form that GPUs run, in 16 bits too: each value is rounded once, at the end."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 50) * 4 + 7
    mean, slope, level = x.mean((0, 2)), torch.randn(3), torch.randn(3)
    for dtype in (torch.float32, torch.bfloat16):
        found = scale_and_shift(x.to(dtype), mean, slope, level)
        exact = (x.to(dtype) - mean[:, None]) * slope[:, None] + level[:, None]
        assert found.dtype == dtype
        torch.testing.assert_close(found, exact.to(dtype), rtol=1e-2, atol=1e-5)
