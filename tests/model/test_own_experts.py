"""Experts that one species alone may choose: against loops, to the bit, and in the losses."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import SPECIES, no_ranks, some_codes, some_targets, tiny_config, tiny_model
from torch import Tensor

from spacescale.config import LossConfig
from spacescale.model import Space, add_species
from spacescale.model.extend import origin_of_experts
from spacescale.model.losses import cv_of_gates, cv_of_usage, routing_losses, training_losses
from spacescale.model.moe import SpeciesMoE
from spacescale.model.router import SpeciesRouter

OWN = {"species_num_experts": 7, "own_experts": {"perch": 1, "finch": 2}}  # 4, then 1, then 2
MAY = {"finch": [0, 1, 2, 3, 5, 6], "perch": [0, 1, 2, 3, 4]}
NAMES = list(SPECIES)
WINDOWS = torch.tensor([0, 0, 1])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def residual(dim: int = 48) -> Tensor:
    return torch.randn(len(WINDOWS), 5, dim)


def test_a_species_chooses_shared_experts_and_its_own():
    config = tiny_config(**OWN)
    moe, x = SpeciesMoE(config), residual()
    out, sums = moe(x, WINDOWS)
    expected, mass = x.clone(), torch.zeros(2, 7)
    spread, squares, gates = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    for b, row in enumerate(WINDOWS.tolist()):
        may = MAY[NAMES[row]]
        for n in range(x.shape[1]):
            logits = (moe.router.weight[row] @ x[b, n] + moe.router.bias[row])[may]
            best = logits.topk(2).indices
            weights = torch.zeros(len(may)).scatter(0, best, F.leaky_relu(logits[best]).softmax(0))
            spread[row] += (weights - 1 / len(may)).square().sum()
            squares[row] += F.leaky_relu(logits).square().sum()
            gates[row] += len(may)
            mass[row, may] += weights
            for e in best.tolist():
                tokens = moe.norm(x[b, n])[None]
                chosen, one = torch.tensor([[may[e]]]), torch.ones(1, 1)
                expected[b, n] += weights[e] * moe.mixture(tokens, chosen, one)[0]
    torch.testing.assert_close(out, expected)
    wanted = (mass, spread, gates, squares[:, None], gates[:, None], torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(tuple(sums), wanted)
    assert sums.gate_mass[0, 5:].any() and sums.gate_mass[1, 4] > 0


def test_experts_of_other_species_reach_neither_sums_nor_gradients():
    """Their logits overflow here."""
    router, x = SpeciesRouter(tiny_config(**OWN)), residual().requires_grad_()
    with torch.no_grad():
        router.weight[0, 4], router.bias[0, 4] = 3e38, 3e38
        router.weight[1, 5:], router.bias[1, 5:] = 3e38, -3e38
    routing = router(x, WINDOWS)
    losses = routing_losses([routing.sums], LossConfig(cv_over="gates"), "encoder")
    total = sum(losses.values()) + routing.weights.square().sum()
    total.backward()
    for found in (*routing.sums, routing.weights, x.grad, router.weight.grad, router.bias.grad):
        assert found.isfinite().all()
    for row, others in ((0, [4]), (1, [5, 6])):
        assert not router.weight.grad[row, others].any()
        assert not routing.sums.gate_mass[row, others].any()
        assert router.weight.grad[row, MAY[NAMES[row]]].any(1).all()


def test_gates_vary_around_the_mean_of_what_may_be_chosen():
    router = SpeciesRouter(tiny_config(**OWN | {"species_top_k": 4}))
    with torch.no_grad():
        router.weight.zero_()
        router.bias.zero_()
        router.bias[1, 4] = -1  # perch chooses the shared ones
    sums = router(residual()[2:], WINDOWS[2:]).sums  # four of five gates are 1/4, one is 0
    values = torch.tensor([0.25] * 4 + [0.0]).repeat(5)
    torch.testing.assert_close(cv_of_gates(sums), values.var() / values.mean() ** 2)


def both(model: Space, *names: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return model({name: some_codes(2, seed=place) for place, name in enumerate(names)})


@pytest.mark.parametrize("own", [{}, OWN], ids=["shared", "own"])
def test_more_species_and_own_experts_leave_the_others_to_the_last_bit(own):
    model = tiny_model(**own)
    more = add_species(model, "moth", ("cage", "atac"), own_experts=3)
    most = add_species(more, "newt", ("cage",), like="moth", own_experts=2)
    assert list(most.config.own_experts.items())[-2:] == [("moth", 3), ("newt", 2)]
    first, second, third = (both(m, *SPECIES) for m in (model, more, most))
    for name in SPECIES:
        assert torch.equal(first.prediction[name], second.prediction[name])
        assert torch.equal(first.prediction[name], third.prediction[name])
    before, after = (both(m, "moth").prediction["moth"] for m in (more, most))
    assert torch.equal(before, after) and before.isfinite().all()


def test_own_experts_begin_as_copies_of_the_first_shared_ones():
    model = tiny_model()
    extended = add_species(model, "moth", ("cage",), like="perch", own_experts=5)
    assert origin_of_experts(extended.config, model.config) == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    old, new = model.transformer[1].moe, extended.transformer[1].moe
    for name in ("w1", "w2", "w3"):
        of_old, of_new = (getattr(m.mixture.experts, name) for m in (old, new))
        assert torch.equal(of_new, of_old[[0, 1, 2, 3, 0, 1, 2, 3, 0]])
    assert torch.equal(new.router.weight[2, :4], old.router.weight[1])
    assert torch.equal(new.router.weight[2, 4:], old.router.weight[1, [0, 1, 2, 3, 0]])
    assert torch.equal(new.router.bias[2, 4:], old.router.bias[1, [0, 1, 2, 3, 0]])


def test_own_experts_of_a_species_that_stays_are_matched_by_its_name():
    old = tiny_config(**OWN)
    new = tiny_config(species_num_experts=7, own_experts={"finch": 1, "perch": 2})
    assert origin_of_experts(new, old) == [0, 1, 2, 3, 5, 4, 1]


def test_a_model_without_experts_gets_none():
    with pytest.raises(ValueError, match=r"own_experts={'moth': 2} leaves 0 of species_num_exp"):
        add_species(tiny_model(species_num_experts=0), "moth", ("cage",), own_experts=2)


def test_losses_pass_over_experts_of_species_without_windows():
    model = tiny_model(**OWN)
    with torch.no_grad():
        output = model({"perch": some_codes(2)})
    settings = LossConfig(mi_weight=1, cv_weight=1)
    found = training_losses(output, some_targets(output), settings, no_ranks)
    mass = [sums.gate_mass for sums in output.encoder_routing]
    assert not any(m[0].any() or m[1, 5:].any() for m in mass)
    usage = [m.sum(0)[MAY["perch"]] for m in mass]
    expected = sum(u.var() / u.mean() ** 2 for u in usage)
    torch.testing.assert_close(found["encoder_cv"], expected)
    assert float(found["encoder_mi"]) == pytest.approx(0, abs=1e-6)  # of one species
    everything = sum(cv_of_usage(sums) for sums in output.encoder_routing)
    assert float(everything) > float(expected)


def test_with_windows_of_all_species_no_expert_is_passed_over():
    output = both(tiny_model(**OWN), *SPECIES)
    found = training_losses(output, some_targets(output), LossConfig(), no_ranks)
    whole = routing_losses(output.encoder_routing, LossConfig(), "encoder")
    for name, value in whole.items():
        assert value.isfinite() and torch.equal(found[name], value)
