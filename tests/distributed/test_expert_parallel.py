"""Two real processes against one: experts, BatchNorm, reductions and whole training steps.

The reference is always plain PyTorch in this process, without DeepSpeed and without collectives.
"""

import copy

import pytest
import torch
from torch import nn

from spacescale.config import LossConfig, ModelConfig, OptimConfig, ParallelConfig
from spacescale.errors import UserError
from spacescale.model.experts import StackedExperts
from spacescale.model.layers import BatchNorm
from spacescale.model.losses import training_losses
from spacescale.model.moe import RoutedExperts
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.parallel.engine import (
    build_engine,
    parameter_groups,
    resolve_deepspeed_config,
    set_learning_rate,
)
from spacescale.parallel.expert_parallel import distribute_experts, resolve_ep_size
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.testing.ranks import run_ranks

NUM_EXPERTS, DIM, TOP_K = 4, 12, 2
TOKENS = (7, 30)  # per rank
NORM_MEANS = (0.0, 1e3)  # of the BatchNorm input
CLIP = 0.2


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


# ---- Whole training steps through DeepSpeed ----------------------------------------------------

MODEL = ModelConfig(
    species={"ant": ("DNASE", "CAGE", "CAGE"), "bee": ("CHIP", "DNASE")},
    seq_length=256,
    target_length=4,
    num_downsamples=5,
    dim=24,
    dim_divisible_by=8,
    depth=2,
    heads=2,
    attn_dim_key=8,
    tracks_num_experts=4,
    tracks_top_k=2,
    dropout=0.0,
    attn_dropout=0.0,
    pos_dropout=0.0,
)
OPTIM = OptimConfig(lr=1e-3)
RATES = (1e-3, 5e-4)
LOSS = LossConfig(mi_weight=0.1, z_weight=0.01, cv_weight=0.05)
DEEPSPEED = {"gradient_clipping": CLIP, "zero_optimization": {"stage": 2, "overlap_comm": False}}


def fresh_model():
    torch.manual_seed(3)
    return Space(MODEL)


def batch(step, rank):
    """Windows of a rank: two of ants and one of bees in the first step, later ants alone.

    Of other seeds some bring an expert's ReLU so close to zero that rounding decides on which side.
    """
    generator = torch.Generator().manual_seed(4000 + 100 * step + rank)
    found = {}
    for name, count in (("ant", 2), ("bee", 1)) if step == 0 else (("ant", 3),):
        shape = (count, MODEL.target_length, len(MODEL.species[name]))
        codes = torch.randint(0, 4, (count, MODEL.seq_length), generator=generator)
        targets = torch.rand(shape, generator=generator) * (1 + 5 * rank)
        found[name] = (codes.to(torch.uint8), targets)
    return found


def total_loss(model, batch, sum_over_ranks):
    output = model({name: codes for name, (codes, _) in batch.items()})
    targets = {name: targets for name, (_, targets) in batch.items()}
    return torch.stack(list(training_losses(output, targets, LOSS, sum_over_ranks).values())).sum()


def train_with_engine(ep_size):
    from deepspeed.utils import safe_get_full_optimizer_state

    model = fresh_model()
    distribute_experts(model, ep_size)
    synchronise_batchnorm(model)
    config = resolve_deepspeed_config(DEEPSPEED, "test", 3)
    engine = build_engine(model, OPTIM, config)
    losses, norms = [], []
    for step, rate in enumerate(RATES):
        set_learning_rate(engine, rate)
        loss = total_loss(engine, batch(step, comm.rank()), comm.sum_over_ranks)
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
        norms.append(float(engine.get_global_grad_norm()))
    # DeepSpeed links optimiser states in its first group's first step, before the others have any.
    engine.optimizer._hp_optimizer_states_linked = False
    engine.optimizer._lazy_init_hp_params_optimizer_state()
    moments = {
        name: safe_get_full_optimizer_state(parameter, "exp_avg").cpu()
        for name, parameter in model.named_parameters()
    }
    return {"losses": losses, "norms": norms, "moments": moments, "state": model.state_dict()}


def train_both_on_one_rank():
    return {ep_size: train_with_engine(ep_size) for ep_size in (1, 2)}


@pytest.fixture(scope="module")
def trained():
    return run_ranks(train_both_on_one_rank, 2)


@pytest.fixture(scope="module")
def reference():
    """Plain PyTorch over the batches of both ranks together."""
    model = fresh_model()
    initial = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(parameter_groups(model, OPTIM), lr=OPTIM.lr)
    losses, norms = [], []
    for step, rate in enumerate(RATES):
        parts = [batch(step, rank) for rank in range(2)]
        whole = {
            name: tuple(torch.cat(pair) for pair in zip(*(p[name] for p in parts), strict=True))
            for name in parts[0]
        }
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = total_loss(model, whole, lambda x: x)
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
    moments = {n: optimizer.state[p]["exp_avg"] for n, p in model.named_parameters()}
    return {
        "initial": initial,
        "losses": losses,
        "norms": norms,
        "moments": moments,
        "state": model.state_dict(),
    }


def whole_tensor(trained, ep_size, part, name):
    """A tensor of the distributed model; expert shares put together, replicas held equal."""
    shares = [rank[ep_size][part][name] for rank in trained]
    if ".experts.w" in name and ".mixture." in name and ep_size == 2:
        return torch.cat(shares)
    assert torch.equal(*shares), f"{name} differs between ranks"
    return shares[0]


@pytest.mark.parametrize("ep_size", [1, 2])
def test_training_on_two_ranks_is_training_on_one(trained, reference, ep_size):
    losses = torch.tensor([rank[ep_size]["losses"] for rank in trained]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(reference["losses"]), rtol=1e-5, atol=0)
    for rank in trained:
        assert rank[ep_size]["norms"] == pytest.approx(reference["norms"], rel=1e-4)
    assert min(reference["norms"]) > CLIP, "clipping must take part in this test"

    for name, expected in reference["moments"].items():  # linear in the clipped gradients
        got = whole_tensor(trained, ep_size, "moments", name).view_as(expected)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-8, msg=name)


@pytest.mark.parametrize("ep_size", [1, 2])
def test_updated_parameters_and_statistics_on_two_ranks_are_those_of_one(
    trained, reference, ep_size
):
    for name, expected in reference["state"].items():
        got = whole_tensor(trained, ep_size, "state", name)
        if name in reference["moments"]:
            # Adam's step is ± the rate where the gradient is rounding noise, as of a bias in front
            # of a BatchNorm: compare the others.
            clear = reference["moments"][name].abs() > 1e-7
            assert not torch.equal(expected, reference["initial"][name]), f"{name} never moved"
            torch.testing.assert_close(got[clear], expected[clear], rtol=0, atol=1e-5, msg=name)
        else:  # running means contain those biases, momentum 0.1
            atol = 2 * 0.1 * sum(RATES)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=atol, msg=name)


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


def test_an_expert_parallel_size_without_experts_is_refused():
    model = ModelConfig(species_num_experts=0)
    with pytest.raises(
        UserError, match=r"parallel.ep_size=3, but the model has no species experts"
    ):
        resolve_ep_size(ParallelConfig(ep_size=3), model, 8)
