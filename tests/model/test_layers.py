import pytest
import torch
from torch.autograd import gradcheck

from spacescale.model.layers import (
    AttentionPool,
    ConvBlock,
    ResidualConvBlock,
    centre_crop,
    one_hot,
    tower_channels,
)


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


def test_conv_block_is_norm_then_activation_then_convolution():
    block = ConvBlock(2, 3, 5).eval()
    x = torch.randn(1, 2, 9)
    activated = x / (1 + 1e-5) ** 0.5
    activated = activated * torch.sigmoid(1.702 * activated)
    conv = block[2]
    expected = torch.nn.functional.conv1d(activated, conv.weight, conv.bias, padding=2)
    torch.testing.assert_close(block(x), expected)


def test_residual_block_adds_its_input():
    residual = ResidualConvBlock(2).eval()
    x = torch.randn(1, 2, 9)
    torch.testing.assert_close(residual(x) - x, residual.block(x))
