"""The forms that GPUs run, against plain statements in float64 or fp32."""

import copy

import pytest
import torch
from gpu_models import CUDA, DEVICE, apart, bf16, config
from torch import Tensor

from spacescale.model.attention import Attention, attention_kernel, positional_basis
from spacescale.model.experts import StackedExperts, has_grouped_product
from spacescale.model.layers import ConvBlock, moments
from spacescale.model.space import TransformerBlock


def gradients(layer, forward, inputs: Tensor, *others) -> list[Tensor]:
    """Output, and gradients of the input and of all parameters."""
    x = inputs.detach().clone().requires_grad_()
    layer.zero_grad()
    out = forward(x, *others)
    out.backward(out.detach() / out.detach().norm())
    return [out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


# ---- Experts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[700, 0, 900, 0], [0, 0, 0, 5], [3, 0, 6, 2]])
def test_experts_without_rows_get_no_gradient(counts, record_property):
    """The memory that gradients are written to held NaN before."""
    layer = StackedExperts(4, 64, 128, 0.0, out_dropout=True).to(DEVICE)
    rows, sizes = torch.randn(sum(counts), 64, device=DEVICE), torch.tensor(counts, device=DEVICE)
    expected = gradients(layer, layer, rows, sizes)
    record_property("grouped", str(has_grouped_product(DEVICE)))
    for _ in range(3):
        spoilt = [
            torch.full_like(p, float("nan"), dtype=torch.bfloat16) for p in layer.parameters()
        ]
        spoilt += [torch.full_like(p, float("nan")) for p in layer.parameters()]
        del spoilt
        with bf16():
            found = gradients(layer, layer, rows, sizes)
        for gradient in found[2:]:
            assert not gradient[sizes == 0].any()
    for got, exact in zip(found, expected, strict=True):
        assert apart(got, exact) < 0.05


# ---- BatchNorm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_exact_far_from_zero_and_where_nothing_varies(dtype):
    x = (100 + torch.randn(3, 8, 5001, device=DEVICE)).to(dtype)
    x[:, 3] = 7
    exact = x.double()
    expected = exact.mean((0, 2)), exact.var((0, 2), correction=0)
    x.requires_grad_()
    mean, variance = moments(x)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), expected[1], rtol=1e-4, atol=1e-9)
    slopes = torch.randn(2, 8, device=DEVICE)
    (slopes[0] * mean + slopes[1] * variance).sum().backward()
    count = x.numel() / 8
    gradient = (
        slopes[0][:, None] + 2 * slopes[1][:, None] * (exact - expected[0][:, None])
    ) / count
    assert x.grad is not None and apart(x.grad, gradient) < (
        1e-4 if dtype == torch.float32 else 5e-3
    )


@pytest.mark.skipif(not CUDA, reason="of a card's memory")
def test_moments_take_no_memory_but_their_gradient(record_property):
    x = torch.randn(4, 64, 100_000, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    mean, variance = moments(x)
    assert torch.cuda.max_memory_allocated() - before < 0.1 * x.nbytes
    (mean.sum() + variance.sum()).backward()
    used = (torch.cuda.max_memory_allocated() - before) / x.nbytes
    record_property("of_input", used)
    assert used < 1.1


@pytest.mark.skipif(not CUDA, reason="of more elements than a CPU's test should have")
def test_a_convolution_block_takes_more_elements_than_32_bits_count():
    """As 16 windows of 196,608 bp have in the stem. Evaluation normalises each window alike, alone
    or not.
    """
    block = ConvBlock(16, 16, 1).to(DEVICE).eval()
    x = torch.randn(2, 16, 2**26 + 8, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    assert x.numel() > 2**31
    with bf16():
        whole = block(x)
    whole.backward(whole.detach())
    assert x.grad is not None
    for window in range(2):
        alone = x.detach()[window : window + 1].requires_grad_()
        with bf16():
            out = block(alone)
        out.backward(out.detach())
        assert alone.grad is not None
        torch.testing.assert_close(out[0], whole[window])
        torch.testing.assert_close(alone.grad[0], x.grad[window])


# ---- Attention -----------------------------------------------------------------------------------


def attention(dropout: float = 0.0) -> Attention:
    layer = Attention(192, heads=4, dim_key=32, dropout=dropout, pos_dropout=0.0)
    torch.nn.init.normal_(layer.to_out.weight, std=0.1)
    return layer.to(DEVICE).train()


def plainly(layer: Attention):
    """Every matrix of the textbook; logits by distance are looked up by index."""

    def forward(x: Tensor, basis: Tensor) -> Tensor:
        n, heads = x.shape[1], layer.heads
        q, k, v = (
            part(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (layer.to_q, layer.to_k, layer.to_v)
        )
        q = q * layer.dim_key**-0.5
        by_distance = layer.to_rel_k(basis).unflatten(-1, (heads, -1)).permute(1, 2, 0)
        position = torch.arange(n, device=x.device)
        distance = position[None, :] - position[:, None] + n - 1
        relative = (q + layer.rel_pos_bias) @ by_distance
        relative = relative.gather(3, distance.expand(*relative.shape[:2], n, n))
        logits = (q + layer.rel_content_bias) @ k.mT + relative
        return layer.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))

    return forward


@pytest.mark.parametrize("n", [128, 129, 136])
@pytest.mark.parametrize("half", [False, True])
def test_attention_and_its_gradients_are_those_of_the_plain_statement(n, half, record_property):
    layer, x = attention(), torch.randn(2, n, 192, device=DEVICE)
    basis = positional_basis(n, 48, DEVICE)
    exact = copy.deepcopy(layer).double()
    expected = gradients(exact, plainly(exact), x.double(), basis.double())
    record_property("kernel", attention_kernel(layer, n, x.bfloat16() if half else x))
    with bf16(half):
        found = gradients(layer, layer, x, basis)
    for got, plain in zip(found, expected, strict=True):
        assert apart(got, plain) < (0.05 if half else 2e-3)


@pytest.mark.skipif(not CUDA, reason="of a card's kernels")
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("n", [1024, 1025, 1537])
def test_the_efficient_kernel_takes_the_bias_without_a_copy(n, dropout):
    layer = attention(dropout)
    x = torch.randn(1, n, 192, device=DEVICE, dtype=torch.bfloat16)
    basis = positional_basis(n, 48, DEVICE)
    assert attention_kernel(layer, n, x) == "efficient_attention"
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile, bf16():
        layer(x, basis)
    names = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_efficient_attention" in names
    for event in profile.events():
        if event.name in ("aten::constant_pad_nd", "aten::copy_", "aten::clone"):
            assert [1, 4, n, n] not in event.input_shapes, event


# ---- The host does not wait ----------------------------------------------------------------------


@pytest.mark.skipif(not has_grouped_product(DEVICE), reason="where experts run one after the other")
def test_a_block_and_a_convolution_never_wait_for_the_device():
    values = config(dropout=0.1, attn_dropout=0.05, pos_dropout=0.01)
    block = TransformerBlock(values).to(DEVICE).train()
    convolution = ConvBlock(96, 96, 5).to(DEVICE).train()
    x = torch.randn(2, 65, 96, device=DEVICE, requires_grad=True)
    basis = positional_basis(65, 48, DEVICE)
    species = torch.tensor([0, 1], device=DEVICE)

    def step() -> None:
        with bf16():
            out, sums = block(convolution(x.mT).mT, basis, species)
        (out.square().sum() + sums.gate_mass.square().sum()).backward()

    step()  # libraries are loaded, for which it may wait
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
