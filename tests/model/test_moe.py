"""Routing, experts and decoder against loops that state what they compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spacescale.model.decoder import ProfileDecoder
from spacescale.model.experts import StackedExperts
from spacescale.model.moe import SpeciesMoE
from spacescale.model.router import ExpertChoice, RoutingSums, gate_weights, shift_zero_gates
from spacescale.space_config import ModelConfig

DIM, BINS, TYPES, GROUPS, EXPERTS = 6, 5, 3, 2, 4


def config(**changes) -> ModelConfig:
    values = {
        "species": {"finch": ("a", "b"), "perch": ("c",)},
        "seq_length": BINS * 4,
        "target_length": BINS,
        "num_downsamples": 2,
        "dim": DIM,
        "dim_divisible_by": 1,
        "heads": 1,
        "species_num_experts": EXPERTS,
        "tracks_num_experts": EXPERTS,
        "groups_per_type": GROUPS,
        "dropout": 0.0,
    }
    return ModelConfig(**(values | changes))


def one_expert(experts: StackedExperts, e: int, row: Tensor) -> Tensor:
    bias_in, bias_out = experts.w3[e, 0].split([experts.hidden, experts.dim])
    return experts.w2[e] @ torch.relu(experts.w1[e] @ row + bias_in) + bias_out


def expected_weights(logits: Tensor, top_k: int) -> dict[int, Tensor]:
    """Softmax over the leaky logits of the k largest: expert → weight."""
    chosen = logits.argsort(descending=True)[:top_k].tolist()
    weights = F.leaky_relu(logits[chosen], 0.01).softmax(0)
    return dict(zip(chosen, weights, strict=True))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_top_k_gates_choose_the_largest_and_sum_to_one(top_k):
    logits = torch.randn(7, 3, EXPERTS)
    experts = ExpertChoice(top_k)(logits)
    weights = gate_weights(logits, experts)
    assert torch.equal(experts, logits.argsort(-1, descending=True)[..., :top_k])
    torch.testing.assert_close(weights.sum(-1), torch.ones(7, 3))
    for gate, chosen, weight in zip(
        logits.flatten(0, 1), experts.flatten(0, 1), weights.flatten(0, 1), strict=True
    ):
        expected = expected_weights(gate, top_k)
        torch.testing.assert_close(weight, torch.stack([expected[int(e)] for e in chosen]))


def test_gates_that_underflow_to_zero_still_route():
    logits = torch.tensor([[500.0, 0.0, -1.0]])
    experts = ExpertChoice(2)(logits)
    weights = gate_weights(logits, experts)
    assert experts.tolist() == [[0, 1]] and weights.tolist() == [[1.0, 0.0]]


def test_experts_without_rows_are_passed_over():
    experts = StackedExperts(3, DIM, 2 * DIM, dropout=0.0, out_dropout=False)
    rows = torch.randn(4, DIM)
    found = experts(rows, torch.tensor([3, 0, 1]))
    expected = [one_expert(experts, e, row) for e, row in zip([0, 0, 0, 2], rows, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert experts(rows[:0], torch.zeros(3, dtype=torch.int64)).shape == (0, DIM)


@pytest.mark.parametrize("top_k", [1, 3, EXPERTS])
def test_species_moe_equals_a_loop_over_tokens(top_k):
    moe = SpeciesMoE(config(species_top_k=top_k))
    x, species = 3 * torch.randn(3, 4, DIM), torch.tensor([1, 0, 1])
    found, sums = moe(x, species)
    mass, gate_spread, squares = torch.zeros(2, EXPERTS), torch.zeros(2), torch.zeros(2, 1)
    expected = x.clone()
    for b in range(3):
        gate = species[b]
        for n in range(4):
            logits = moe.router.weight[gate] @ x[b, n] + moe.router.bias[gate]
            squares[gate] += F.leaky_relu(logits, 0.01).square().sum()
            gates = torch.zeros(EXPERTS)
            for e, weight in expected_weights(logits, top_k).items():
                mass[gate, e] += weight
                gates[e] = weight
                row = moe.norm(x[b, n])
                expected[b, n] += weight * one_expert(moe.mixture.experts, e, row)
            gate_spread[gate] += (gates - 1 / EXPERTS).square().sum()
    torch.testing.assert_close(found, expected)
    gates = torch.tensor([16.0, 32.0])  # windows × 4 tokens × 4 experts
    windows = torch.tensor([1.0, 2.0])
    expected_sums = RoutingSums(mass, gate_spread, gates, squares, gates[:, None], windows)
    torch.testing.assert_close(tuple(sums), tuple(expected_sums))


def decoder_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    track_types = torch.tensor([2, 0, 2, 2])  # no track of type 1
    base = torch.randn(batch, BINS, len(track_types))
    return base, torch.randn(batch, BINS, 2 * DIM), torch.randn(batch, DIM), track_types


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
def test_decoder_equals_a_loop_over_tracks(top_k):
    decoder = ProfileDecoder(config(tracks_top_k=top_k))
    base, features, state, track_types = decoder_inputs(2)
    found, sums = decoder(base, features, state, track_types)
    expected, mass = base.clone(), torch.zeros(TYPES, EXPERTS)
    squares, gate_spread = torch.zeros(TYPES, GROUPS + 2), torch.zeros(TYPES)
    gate_weight = decoder.gates.weight.view(TYPES, GROUPS, EXPERTS, BINS)
    gate_bias = decoder.gates.bias.view(TYPES, GROUPS, EXPERTS)
    for b in range(2):
        views = [decoder.from_sequence(features[b].mean(0)), decoder.from_species(state[b])]
        for v, view in enumerate(views):
            squares[:, GROUPS + v] += view.view(TYPES, GROUPS).square().sum(1)
        group_weights = sum(view.view(TYPES, GROUPS).softmax(1) for view in views) / 2
        for t, kind in enumerate(track_types.tolist()):
            profile, gates = base[b, :, t], torch.zeros(EXPERTS)
            for g in range(GROUPS):
                logits = gate_weight[kind, g] @ (profile + decoder.type_embedding[kind])
                logits = logits + gate_bias[kind, g]
                squares[kind, g] += F.leaky_relu(logits, 0.01).square().sum()
                for e, weight in expected_weights(logits, top_k).items():
                    weight = weight * group_weights[kind, g]
                    gates[e] += weight
                    expected[b, :, t] += weight * one_expert(decoder.experts, e, profile)
            mass[kind] += gates
            gate_spread[kind] += (gates - 1 / EXPERTS).square().sum()
    torch.testing.assert_close(found, expected)
    profiles = torch.tensor([2.0, 0, 6])  # two windows
    num_logits = torch.full((TYPES, GROUPS + 2), 2.0 * GROUPS)
    num_logits[:, :GROUPS] = EXPERTS * profiles[:, None]
    expected_sums = (mass, gate_spread, EXPERTS * profiles, squares, num_logits, profiles)
    torch.testing.assert_close(tuple(sums), expected_sums)


def test_group_weights_of_the_paper_are_one_softmax_of_the_sum():
    released, paper = (
        ProfileDecoder(config()),
        ProfileDecoder(config(group_weights="softmax_of_sum")),
    )
    views = torch.randn(2, 3, TYPES, GROUPS)
    mean = (views[0].softmax(-1) + views[1].softmax(-1)) / 2
    torch.testing.assert_close(released._group_weights(views), mean)
    torch.testing.assert_close(paper._group_weights(views), (views[0] + views[1]).softmax(-1))


def released_rows(experts: Tensor, weights: Tensor) -> list[tuple[int, int, float]]:
    """(token, expert, weight) of every row the released code makes: it lists the entries whose
    weight is not 0 and takes the i-th of them for token i // K.
    """
    entries = [
        (int(e), float(w))
        for e, w in zip(experts.flatten(), weights.flatten(), strict=True)
        if w != 0
    ]
    return [(i // experts.shape[1], e, w) for i, (e, w) in enumerate(entries)]


def test_zero_gates_misroute_later_tokens_as_released():
    experts = torch.tensor([[0, 2], [1, 3], [2, 0], [3, 1]])
    weights = torch.tensor([[0.9, 0.1], [1.0, 0.0], [0.7, 0.3], [1.0, 0.0]])
    found = [
        (token, int(e), float(w))
        for token, row in enumerate(zip(*shift_zero_gates(experts, weights), strict=True))
        for e, w in zip(*row, strict=True)
        if w != 0
    ]
    assert found == released_rows(experts, weights)
    assert found[3] == (1, 2, float(weights[2, 0]))  # token 1 got what was meant for token 2


def test_zero_gates_are_kept_unless_released_is_asked_for():
    """Far logits underflow: one of the two chosen weights is exactly 0 for most tokens."""
    kept = SpeciesMoE(config(species_top_k=2))
    released = SpeciesMoE(config(species_top_k=2, zero_gates="released"))
    with torch.no_grad():
        kept.router.weight.mul_(1e4)
    released.load_state_dict(kept.state_dict())
    x, species = torch.randn(3, 4, DIM), torch.tensor([0, 0, 1])
    with torch.no_grad():
        (right, sums), (wrong, same_sums) = kept(x, species), released(x, species)
        routing = kept.router(x, species)
    torch.testing.assert_close(tuple(sums), tuple(same_sums))
    assert (routing.weights == 0).any()
    for windows in (slice(0, 2), slice(2, 3)):  # each species alone, as the released code runs
        chosen = routing.experts[windows].flatten(0, 1), routing.weights[windows].flatten(0, 1)
        tokens = x[windows].flatten(0, 1)
        expected = tokens.clone()
        for token, e, weight in released_rows(*chosen):
            expected[token] += weight * one_expert(
                kept.mixture.experts, e, kept.norm(tokens[token])
            )
        torch.testing.assert_close(wrong[windows].flatten(0, 1), expected)
    assert not torch.allclose(right, wrong)


def test_a_profile_type_without_tracks_routes_nothing_and_breaks_nothing():
    decoder = ProfileDecoder(config(tracks_top_k=2))
    enhanced, sums = decoder(*decoder_inputs(2))
    (enhanced.sum() + sums.gate_mass.square().sum()).backward()
    assert sums.gate_mass[1].tolist() == [0.0] * EXPERTS
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters())
    assert not decoder.type_embedding.grad[1].any() and decoder.type_embedding.grad[0].any()
