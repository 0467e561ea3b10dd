import pytest
import torch
from torch import Tensor

from spacescale.model.attention import (
    Attention,
    attention_kernel,
    positional_basis,
    relative_logits,
    relative_shift,
)

N = [1, 2, 5, 8]


def pad_and_reshape(relative: Tensor) -> Tensor:
    """Transformer-XL's statement of the relative shift."""
    batch, heads, n, width = relative.shape
    padded = torch.cat([relative.new_zeros(batch, heads, n, 1), relative], dim=-1)
    shifted = padded.reshape(batch, heads, width + 1, n)[:, :, 1:]
    return shifted.reshape(batch, heads, n, width)[..., :n]


def random_relative(n: int) -> Tensor:
    torch.manual_seed(n)
    return torch.randn(2, 3, n, 2 * n - 1, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("n", N)
def test_relative_shift_equals_pad_and_reshape_with_its_gradient(n):
    relative = random_relative(n)
    found, expected = relative_shift(relative, n, n - 1), pad_and_reshape(relative)
    assert torch.equal(found, expected)
    sensitivity = torch.randn_like(found)
    gradients = [torch.autograd.grad(x, relative, sensitivity)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("n", N)
def test_relative_shift_takes_the_logit_of_distance_j_minus_i(n):
    relative = random_relative(n).detach()
    shifted = relative_shift(relative, n, n - 1)
    for i in range(n):
        for j in range(n):
            assert torch.equal(shifted[..., i, j], relative[..., i, n - 1 + j - i])


def test_relative_shift_of_a_strided_input():
    relative = random_relative(5).detach()
    strided = relative.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(relative_shift(strided, 5, 4), relative_shift(relative, 5, 4))


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 1025])
def test_aligned_logits_are_the_same_and_a_gpu_kernel_takes_them_as_they_are(n):
    """torch's efficient kernel copies a bias whose strides are not multiples of 8, and refuses one
    that begins elsewhere.
    """
    generator = torch.Generator().manual_seed(n)
    sizes = ((2, 3, n, 4), (3, 4, 2 * n - 1), (2, 3, n, n))
    q, r, sensitivity = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes
    )
    found = []
    for alignment in (1, 8):
        inputs = q.clone().requires_grad_(), r.clone().requires_grad_()
        logits = relative_logits(*inputs, alignment)
        found.append([logits, *torch.autograd.grad(logits, inputs, sensitivity)])
    torch.testing.assert_close(*found)
    aligned = found[1][0]
    *strides, last = aligned.stride()
    assert last == 1 and not any(stride % 8 for stride in [*strides, aligned.storage_offset()])


def test_the_kernel_is_named():
    attention = Attention(24, heads=2, dim_key=4, dropout=0.1, pos_dropout=0.0)
    assert attention_kernel(attention, 6, torch.empty(0)) == "math"  # a bias with a gradient


@pytest.mark.parametrize("num_positions", [16, 17])
def test_positional_basis_is_one_half_even_and_one_half_odd_in_the_distance(num_positions):
    basis = positional_basis(num_positions, 12, torch.device("cpu"))
    assert basis.shape == (2 * num_positions - 1, 12) and torch.isfinite(basis).all()
    even, odd = basis.split(6, dim=1)
    assert torch.equal(even, even.flip(0)) and torch.equal(odd, -odd.flip(0))
    assert torch.equal(even[num_positions - 1], torch.ones(6))
    assert not odd[num_positions - 1].any()
    decays = even[num_positions - 1 :, :2]
    assert (decays.diff(dim=0) < 0).all()
    gammas = even[num_positions:, 4:]
    torch.testing.assert_close(gammas.amax(1), torch.ones(num_positions - 1))


def test_attention_equals_its_definition():
    torch.manual_seed(0)
    n, heads, key = 6, 2, 4
    attention = Attention(24, heads=heads, dim_key=key, dropout=0.0, pos_dropout=0.0)
    torch.nn.init.normal_(attention.to_out.weight)
    x, basis = torch.randn(1, n, 24), positional_basis(n, 12, torch.device("cpu"))
    q, k = (layer(x)[0].view(n, heads, key) for layer in (attention.to_q, attention.to_k))
    v = attention.to_v(x)[0].view(n, heads, 12)
    r = attention.to_rel_k(basis).view(2 * n - 1, heads, key)
    out = torch.zeros(n, heads, 12)
    for h in range(heads):
        content, position = (
            bias[0, h, 0] for bias in (attention.rel_content_bias, attention.rel_pos_bias)
        )
        for i in range(n):
            query = q[i, h] / key**0.5
            logits = torch.stack(
                [(query + content) @ k[j, h] + (query + position) @ r[n - 1 + j - i, h]
                 for j in range(n)]
            )  # fmt: skip
            out[i, h] = logits.softmax(0) @ v[:, h]
    torch.testing.assert_close(attention(x, basis)[0], attention.to_out(out.flatten(1)))


def test_attention_starts_as_the_zero_map():
    attention = Attention(24, heads=2, dim_key=4, dropout=0.0, pos_dropout=0.0)
    basis = positional_basis(6, 12, torch.device("cpu"))
    assert not attention(torch.randn(1, 6, 24), basis).any()
