"""Two real processes against one: experts, BatchNorm and reductions.

The reference is always plain PyTorch in this process, without DeepSpeed and without collectives.
"""

import pytest
import torch
from torch import nn

from spacescale.config import ParallelConfig
from spacescale.errors import UserError
from spacescale.model.experts import StackedExperts
from spacescale.model.layers import BatchNorm
from spacescale.model.moe import RoutedExperts
from spacescale.parallel import comm
from spacescale.parallel.expert_groups import resolve_ep_size
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.space_config import ModelConfig
from spacescale.testing.ranks import run_ranks

NUM_EXPERTS, DIM, TOP_K = 4, 12, 2
TOKENS = (7, 30)  # per rank
NORM_MEANS = (0.0, 1e3)  # of the BatchNorm input


# ---- Parts: experts, the differentiable sum, BatchNorm -----------------------------------------


def routed_experts():
    torch.manual_seed(1)
    return RoutedExperts(StackedExperts(NUM_EXPERTS, DIM, 2 * DIM, 0.0, out_dropout=True))


def expert_inputs(rank):
    """Tokens, choices and gate weights of a rank; nobody chooses expert 2, rank 0 only 0 and 1."""
    generator = torch.Generator().manual_seed(10 + rank)
    tokens = torch.randn(TOKENS[rank], DIM, generator=generator)
    allowed = torch.tensor([0, 1] if rank == 0 else [3, 0, 1])
    picks = torch.rand(TOKENS[rank], len(allowed), generator=generator).topk(TOP_K).indices
    weights = torch.rand(TOKENS[rank], TOP_K, generator=generator).softmax(-1)
    return tokens, allowed[picks], weights


def run_experts(module, inputs):
    tokens, chosen, weights = (t.clone() for t in inputs)
    tokens.requires_grad_()
    weights.requires_grad_()
    out = module(tokens, chosen, weights)
    out.square().sum().backward()
    return {"out": out.detach(), "tokens": tokens.grad, "weights": weights.grad}


def norm_input(rank, mean):
    generator = torch.Generator().manual_seed(20 + rank)
    windows, scale = (2, 1.0) if rank == 0 else (3, 4.0)
    return torch.randn(windows, 5, 40, generator=generator) * scale + mean


def run_norm(norm, x):
    """Two training steps, then one evaluation."""
    x = x.clone().requires_grad_()
    norm(x)
    out = norm(x)
    (out * torch.linspace(-1, 1, x.shape[2])).square().sum().backward()
    norm.eval()
    return {
        "out": out.detach(),
        "grad": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
        "eval": norm(x).detach(),
    }


def parts_on_one_rank():
    rank = comm.rank()
    model = nn.Sequential(routed_experts())
    distribute_experts(model, ep_size=2)
    model[0].ep_group = torch.distributed.group.WORLD
    found = run_experts(model[0], expert_inputs(rank))
    found |= {f"experts.{n}": p.grad for n, p in model[0].experts.named_parameters()}

    x = torch.tensor([1.0 + rank, 5.0], requires_grad=True)
    total = comm.sum_over_ranks(x)
    (total.square().sum() / 2).backward()  # the same loss on both ranks
    norms = nn.ModuleList(BatchNorm(5, momentum=0.1) for _ in NORM_MEANS)
    synchronise_batchnorm(norms)
    return {
        "experts": found,
        "sum": total.detach(),
        "sum_grad": x.grad,
        "norms": [run_norm(n, norm_input(rank, m)) for n, m in zip(norms, NORM_MEANS, strict=True)],
    }


@pytest.fixture(scope="module")
def parts():
    return run_ranks(parts_on_one_rank, 2)


def test_experts_on_two_ranks_give_the_outputs_and_gradients_of_one_process(parts):
    reference = routed_experts()
    for rank, got in enumerate(parts):
        expected = run_experts(reference, expert_inputs(rank))
        for name, tensor in expected.items():
            torch.testing.assert_close(got["experts"][name], tensor, rtol=0, atol=1e-6)
    for name, parameter in reference.experts.named_parameters():
        got = torch.cat([part["experts"][f"experts.{name}"] for part in parts])
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(got / scale, parameter.grad / scale, rtol=0, atol=1e-6)
        assert not got[2].any(), "expert 2 had no tokens"
        assert got[[0, 1, 3]].flatten(1).any(1).all()


def test_backward_of_a_sum_over_ranks_adds_the_ranks_gradients(parts):
    for got in parts:
        assert got["sum"].tolist() == [3.0, 10.0]
        assert got["sum_grad"].tolist() == [6.0, 20.0]  # the mean over ranks is d(loss)/dx


@pytest.mark.parametrize("case", range(len(NORM_MEANS)))
def test_batchnorm_over_two_ranks_is_batchnorm_of_the_whole_batch(parts, case):
    mean = NORM_MEANS[case]
    whole = run_norm(
        nn.BatchNorm1d(5).double(), torch.cat([norm_input(r, mean) for r in range(2)]).double()
    )
    got = {name: [part["norms"][case][name].double() for part in parts] for name in whole}
    tolerance = {"rtol": 1e-5, "atol": 2e-6 if mean == 0 else 2e-4}  # eps · mean is 1e-4
    for name in ("out", "eval"):
        torch.testing.assert_close(torch.cat(got[name]), whole[name], **tolerance)
    for name in ("mean", "var"):
        for each in got[name]:
            torch.testing.assert_close(each, whole[name], rtol=1e-5, atol=1e-5)
    scale = whole["grad"].abs().max()
    torch.testing.assert_close(
        torch.cat(got["grad"]) / scale, whole["grad"] / scale, rtol=1e-3, atol=tolerance["atol"]
    )
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(got[name]), whole[name], rtol=1e-4, atol=2e-2)


# ---- Choosing the expert-parallel size ---------------------------------------------------------


@pytest.mark.parametrize(
    "world, experts, asked, upper, expected",
    [
        (1, 4, "auto", 2, 1),
        (2, 4, "auto", 2, 2),
        (8, 4, "auto", 2, 2),
        (8, 4, "auto", 4, 4),
        (6, 4, "auto", 4, 2),
        (3, 4, "auto", 4, 1),
        (8, 6, "auto", 8, 2),
        (8, 0, "auto", 4, 1),
        (8, 4, 4, 2, 4),  # asked for: the bound of 'auto' does not matter
        (8, 4, 1, 2, 1),
    ],
)
def test_the_expert_parallel_size_divides_processes_and_experts(
    world, experts, asked, upper, expected
):
    parallel = ParallelConfig(ep_size=asked, max_ep_size=upper)
    model = ModelConfig(species_num_experts=experts, species_top_k=1)
    assert resolve_ep_size(parallel, model, world) == expected


@pytest.mark.parametrize("world, experts, asked", [(2, 4, 3), (2, 4, 4), (4, 6, 4)])
def test_an_expert_parallel_size_that_does_not_divide_is_refused_by_name(world, experts, asked):
    model = ModelConfig(species_num_experts=experts, species_top_k=1)
    with pytest.raises(UserError, match=rf"parallel.ep_size={asked} must divide .*\({world}\)"):
        resolve_ep_size(ParallelConfig(ep_size=asked), model, world)


def test_it_is_said_how_many_own_experts_fit():
    own = {"ant": 1, "bee": 1}
    model = ModelConfig(species_num_experts=6, species_top_k=1, own_experts=own)
    with pytest.raises(UserError, match=r"; or give bee 3 own experts \(--own-experts\), not 1$"):
        resolve_ep_size(ParallelConfig(ep_size=4), model, 4)
    with pytest.raises(UserError, match=r"2 is the largest that does$"):
        resolve_ep_size(ParallelConfig(ep_size=3), model, 4)


def test_an_expert_parallel_size_without_experts_is_refused():
    model = ModelConfig(species_num_experts=0)
    with pytest.raises(
        UserError, match=r"parallel.ep_size=3, but the model has no species experts"
    ):
        resolve_ep_size(ParallelConfig(ep_size=3), model, 8)
