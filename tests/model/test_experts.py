import pytest
import torch

from spacescale.model.experts import StackedExperts


def run(forward, experts: StackedExperts, counts: list[int]) -> list[torch.Tensor]:
    """Output and all gradients."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(counts), experts.dim, generator=generator).requires_grad_()
    out = forward(rows, counts).float()
    out.square().sum().backward()
    gradients = [rows.grad, *(p.grad for p in experts.parameters())]
    experts.zero_grad()
    return [out.detach(), *gradients]


@pytest.mark.parametrize("counts", [[3, 0, 6, 2], [0, 0, 0, 5], [1, 1, 1, 1]])
def test_the_grouped_product_equals_one_expert_after_the_other(counts):
    torch.manual_seed(0)
    experts = StackedExperts(4, 16, 32, 0.0, out_dropout=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(experts, experts, counts)
    found = run(experts._run_grouped, experts, counts)
    for grouped, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(grouped, exact, rtol=0, atol=2e-2 * float(exact.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_experts_on_a_gpu_in_bf16():
    experts = StackedExperts(4, 16, 32, 0.0, out_dropout=True)
    rows, counts = torch.randn(11, 16), [3, 0, 6, 2]
    expected = experts(rows, counts)
    with torch.autocast("cuda", torch.bfloat16):
        found = experts.cuda()(rows.cuda(), counts)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=0, atol=2e-2)
