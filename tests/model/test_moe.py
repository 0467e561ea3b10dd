"""Routing, experts and decoder against loops that state what they compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spacescale.model.decoder import ProfileDecoder
from spacescale.model.experts import StackedExperts
from spacescale.model.moe import SpeciesMoE
from spacescale.model.router import RoutingSums, top_k_gates

DIM, BINS, TYPES, GROUPS, EXPERTS = 6, 5, 3, 2, 4


def one_expert(experts: StackedExperts, e: int, row: Tensor) -> Tensor:
    bias_in, bias_out = experts.w3[e, 0].split([experts.hidden, experts.dim])
    return experts.w2[e] @ torch.relu(experts.w1[e] @ row + bias_in) + bias_out


def gate_weights(logits: Tensor, top_k: int) -> dict[int, Tensor]:
    """Softmax over the leaky logits of the k largest."""
    chosen = logits.argsort(descending=True)[:top_k].tolist()
    weights = F.leaky_relu(logits[chosen], 0.01).softmax(0)
    return dict(zip(chosen, weights, strict=True))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_top_k_gates_choose_the_largest_and_sum_to_one(top_k):
    logits = torch.randn(7, 3, EXPERTS)
    experts, weights = top_k_gates(logits, top_k)
    assert torch.equal(experts, logits.argsort(-1, descending=True)[..., :top_k])
    torch.testing.assert_close(weights.sum(-1), torch.ones(7, 3))
    for gate, chosen, weight in zip(
        logits.flatten(0, 1), experts.flatten(0, 1), weights.flatten(0, 1), strict=True
    ):
        expected = gate_weights(gate, top_k)
        torch.testing.assert_close(weight, torch.stack([expected[int(e)] for e in chosen]))


def test_gates_that_underflow_to_zero_still_route():
    experts, weights = top_k_gates(torch.tensor([[500.0, 0.0, -1.0]]), 2)
    assert experts.tolist() == [[0, 1]] and weights.tolist() == [[1.0, 0.0]]


def test_experts_without_rows_are_passed_over():
    experts = StackedExperts(3, DIM, 2 * DIM, dropout=0.0, out_dropout=False)
    rows = torch.randn(4, DIM)
    found = experts(rows, [3, 0, 1])
    expected = [one_expert(experts, e, row) for e, row in zip([0, 0, 0, 2], rows, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert experts(rows[:0], [0, 0, 0]).shape == (0, DIM)


@pytest.mark.parametrize("top_k", [1, 3, EXPERTS])
def test_species_moe_equals_a_loop_over_tokens(top_k):
    moe = SpeciesMoE(DIM, num_species=2, num_experts=EXPERTS, top_k=top_k, dropout=0.0)
    x, species = 3 * torch.randn(3, 4, DIM), torch.tensor([1, 0, 1])
    found, sums = moe(x, species)
    mass, squares = torch.zeros(2, EXPERTS), torch.zeros(())
    expected = x.clone()
    for b in range(3):
        gate = species[b]
        for n in range(4):
            logits = moe.router.weight[gate] @ x[b, n] + moe.router.bias[gate]
            squares = squares + F.leaky_relu(logits, 0.01).square().sum()
            for e, weight in gate_weights(logits, top_k).items():
                mass[gate, e] += weight
                row = moe.norm(x[b, n])
                expected[b, n] += weight * one_expert(moe.mixture.experts, e, row)
    torch.testing.assert_close(found, expected)
    expected_sums = RoutingSums(mass, squares, torch.tensor(48.0))
    torch.testing.assert_close(tuple(sums), tuple(expected_sums))


def decoder_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    track_types = torch.tensor([2, 0, 2, 2])  # no track of type 1
    base = torch.randn(batch, BINS, len(track_types))
    return base, torch.randn(batch, BINS, 2 * DIM), torch.randn(batch, DIM), track_types


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_decoder_equals_a_loop_over_tracks(top_k):
    decoder = ProfileDecoder(DIM, BINS, TYPES, GROUPS, EXPERTS, top_k, dropout=0.0)
    base, features, state, track_types = decoder_inputs(2)
    found, sums = decoder(base, features, state, track_types)
    expected, mass, squares = base.clone(), torch.zeros(TYPES, EXPERTS), torch.zeros(())
    gate_weight = decoder.gates.weight.view(TYPES, GROUPS, EXPERTS, BINS)
    gate_bias = decoder.gates.bias.view(TYPES, GROUPS, EXPERTS)
    for b in range(2):
        views = [decoder.from_sequence(features[b].mean(0)), decoder.from_species(state[b])]
        squares = squares + sum(view.square().sum() for view in views)
        group_weights = sum(view.view(TYPES, GROUPS).softmax(1) for view in views) / 2
        for t, kind in enumerate(track_types.tolist()):
            profile = base[b, :, t]
            for g in range(GROUPS):
                logits = gate_weight[kind, g] @ (profile + decoder.type_embedding[kind])
                logits = logits + gate_bias[kind, g]
                squares = squares + F.leaky_relu(logits, 0.01).square().sum()
                for e, weight in gate_weights(logits, top_k).items():
                    weight = weight * group_weights[kind, g]
                    mass[kind, e] += weight
                    expected[b, :, t] += weight * one_expert(decoder.experts, e, profile)
    torch.testing.assert_close(found, expected)
    num_logits = 2 * (4 * GROUPS * EXPERTS + 2 * TYPES * GROUPS)
    expected_sums = (mass, squares, torch.tensor(float(num_logits)))
    torch.testing.assert_close(tuple(sums), expected_sums)


def test_a_profile_type_without_tracks_routes_nothing_and_breaks_nothing():
    decoder = ProfileDecoder(DIM, BINS, TYPES, GROUPS, EXPERTS, 2, dropout=0.0)
    enhanced, sums = decoder(*decoder_inputs(2))
    (enhanced.sum() + sums.gate_mass.square().sum()).backward()
    assert sums.gate_mass[1].tolist() == [0.0] * EXPERTS
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters())
    assert not decoder.type_embedding.grad[1].any() and decoder.type_embedding.grad[0].any()
