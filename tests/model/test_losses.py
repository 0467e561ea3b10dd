import numpy as np
import pytest
import torch
from tiny_models import no_ranks, some_codes, some_targets, tiny_model

from spacescale.config import LossConfig
from spacescale.model.losses import (
    cv_of_gates,
    cv_of_usage,
    measured_poisson_loss,
    mi_loss,
    poisson_loss,
    poisson_sums,
    poisson_terms,
    routing_losses,
    species_losses,
    training_losses,
    z_loss,
)
from spacescale.model.router import RoutingSums
from spacescale.model.space import SpaceOutput

S, E = 3, 4
BALANCED = torch.full((S, E), 5.0)
COLLAPSED = torch.tensor([[5.0, 0, 0, 0]] * S)  # everything to one expert
SPECIALISED = torch.tensor([[5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 5.0, 0]])


def random_mass() -> torch.Tensor:
    return torch.rand(S, E, generator=torch.Generator().manual_seed(0)) * 100


def test_poisson_loss_in_numpy():
    prediction = np.array([[[0.5, 2.0], [0.0, 1e-30]]], dtype=np.float32)
    target = np.array([[[1.0, 3.0], [0.0, 2.0]]], dtype=np.float32)
    expected = np.mean(prediction - target * np.log(np.maximum(prediction, 1e-20)))
    found = poisson_loss(torch.from_numpy(prediction), torch.from_numpy(target))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_poisson_loss_is_least_at_the_target():
    target = torch.tensor([0.3, 1.0, 7.0])
    prediction = target.clone().requires_grad_()
    poisson_loss(prediction, target).backward()
    torch.testing.assert_close(prediction.grad, torch.zeros(3))


def sums_of(mass: torch.Tensor, squares: float = 0.0, count: float = 1.0) -> RoutingSums:
    """Routing sums with one kind of logit, all of whose squares are in the first row."""
    rows = len(mass)
    first = torch.eye(rows, 1)
    return RoutingSums(
        gate_mass=mass,
        gate_spread=mass.square().sum(1),
        num_gates=torch.full((rows,), 10.0),
        logit_squares=squares * first,
        num_logits=count * first,
        num_items=torch.full((rows,), 2.0),
    )


def mi(mass: torch.Tensor) -> torch.Tensor:
    return mi_loss(sums_of(mass), LossConfig(), 1)


def cv(mass: torch.Tensor) -> torch.Tensor:
    return cv_of_usage(sums_of(mass))


def test_mi_loss_in_numpy():
    mass = random_mass()
    joint = mass.numpy() / mass.numpy().sum()
    independent = np.outer(joint.sum(1), joint.sum(0))
    expected = -(joint * np.log(joint / independent)).sum()
    assert float(mi(mass)) == pytest.approx(float(expected), rel=1e-5)


def test_mi_loss_rewards_experts_that_know_their_species():
    assert float(mi(SPECIALISED)) == pytest.approx(-np.log(3), rel=1e-5)
    assert float(mi(BALANCED)) == pytest.approx(0, abs=1e-6)
    assert float(mi(COLLAPSED)) == pytest.approx(0, abs=1e-6)


def test_mi_loss_does_not_depend_on_how_much_was_routed():
    assert float(mi(1000 * random_mass())) == pytest.approx(float(mi(random_mass())))


def test_mi_loss_of_one_species_alone_is_zero():
    alone = torch.zeros(S, E)
    alone[1] = random_mass()[1]
    alone.requires_grad_()
    loss = mi(alone)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(alone.grad).all()


def test_cv_loss_in_numpy():
    usage = random_mass().numpy().sum(0)
    expected = usage.var(ddof=1) / usage.mean() ** 2
    assert float(cv(random_mass())) == pytest.approx(float(expected), rel=1e-5)


def test_cv_loss_tells_balance_from_collapse():
    assert float(cv(BALANCED)) == 0
    assert float(cv(COLLAPSED)) == pytest.approx(E)
    assert 0 < float(cv(SPECIALISED)) < E


def test_a_single_expert_is_balanced():
    mass = torch.rand(S, 1, requires_grad=True)
    loss = cv(mass) + mi(mass)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(mass.grad).all()


def test_released_mi_divides_by_a_fixed_number_of_tokens():
    weights = LossConfig(mi_normaliser="tokens")
    joint = random_mass().double().numpy() / (2 * S * 7)
    rows, experts = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    expected = -(joint * np.log(joint / (rows * experts))).sum()
    assert joint.sum() != pytest.approx(1)
    assert float(mi_loss(sums_of(random_mass()), weights, 7)) == pytest.approx(expected, rel=1e-5)


def test_released_cv_over_gates_cannot_tell_balance_from_collapse():
    gates = torch.eye(4).repeat(5, 1)  # (20 tokens, 4 experts), balanced, all to one each
    collapsed = torch.tensor([[1.0, 0, 0, 0]]).repeat(20, 1)
    found = []
    for chosen in (gates, collapsed):
        sums = sums_of(chosen.sum(0)[None])._replace(
            gate_spread=(chosen - 1 / 4).square().sum()[None], num_gates=torch.tensor([80.0])
        )
        expected = chosen.var() / chosen.mean() ** 2
        assert float(cv_of_gates(sums)) == pytest.approx(float(expected), rel=1e-5)
        found.append(float(cv_of_gates(sums)))
    assert found[0] == pytest.approx(found[1])


def test_cv_over_gates_adds_nothing_for_species_without_windows():
    some = sums_of(random_mass())
    absent = RoutingSums(*(torch.zeros_like(part) for part in some))
    both = RoutingSums(*(torch.cat(parts) for parts in zip(some, absent, strict=True)))
    assert float(cv_of_gates(both)) == pytest.approx(float(cv_of_gates(some)))


def typed_sums(num_logits: list[list[float]]) -> RoutingSums:
    counts = torch.tensor(num_logits)
    squares = torch.arange(1.0, counts.numel() + 1).view_as(counts) * (counts > 0)
    some = sums_of(torch.ones(len(counts), E))
    return some._replace(logit_squares=squares, num_logits=counts)


def test_released_z_adds_one_mean_per_row_and_kind():
    sums = typed_sums([[2.0, 4.0], [1.0, 8.0]])
    assert float(z_loss(sums, LossConfig())) == pytest.approx((1 + 2 + 3 + 4) / 15)
    released = LossConfig(z_reduction="sum", empty_types="nan")
    assert float(z_loss(sums, released)) == pytest.approx(1 / 2 + 2 / 4 + 3 / 1 + 4 / 8)


def test_a_species_without_a_profile_type_gives_nan_only_as_released():
    empty, absent = [0.0, 4.0], [0.0, 0.0]  # type without tracks; species without windows
    sums = typed_sums([[2.0, 4.0], empty, absent])
    skipped = LossConfig(z_reduction="sum")
    assert float(z_loss(sums, skipped)) == pytest.approx(1 / 2 + 2 / 4 + 4 / 4)
    assert float(z_loss(sums, LossConfig())) == pytest.approx((1 + 2 + 4) / 10)
    assert z_loss(sums, LossConfig(z_reduction="sum", empty_types="nan")).isnan()


def test_routing_losses_are_weighted_sums_over_layers():
    layers = [sums_of(SPECIALISED, 6.0, 3.0), sums_of(COLLAPSED, 5.0, 5.0)]
    weights = LossConfig(mi_weight=2.0, z_weight=3.0, cv_weight=0.5)
    found = {
        name: float(value) for name, value in routing_losses(layers, weights, "encoder").items()
    }
    assert found == {
        "encoder_mi": pytest.approx(-2 * np.log(3), rel=1e-5),
        "encoder_z": pytest.approx(3 * (2 + 1)),
        "encoder_cv": pytest.approx(0.5 * (float(cv(SPECIALISED)) + E)),
    }
    assert routing_losses([], weights, "encoder") == {}


def test_poisson_terms_add_up_to_a_mean_over_windows():
    model = tiny_model(decoder="none")
    with torch.no_grad():
        output = model({"finch": some_codes(3), "perch": some_codes(1, seed=5)})
    targets = some_targets(output)
    found = training_losses(output, targets, LossConfig(), no_ranks)
    per_window = [
        float(poisson_loss(prediction, target))
        for name in targets
        for prediction, target in zip(output.prediction[name], targets[name], strict=True)
    ]
    total = float(found["poisson/finch"] + found["poisson/perch"])
    assert total == pytest.approx(np.mean(per_window), rel=1e-5)


def test_poisson_term_is_the_mean_of_output_and_enhancement():
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(2)})
    targets = some_targets(output)
    predictions = (output.prediction["finch"], output.enhanced["finch"])
    expected = np.mean([float(poisson_loss(p, targets["finch"])) for p in predictions])
    found = training_losses(output, targets, LossConfig(), no_ranks)
    assert float(found["poisson/finch"]) == pytest.approx(expected, rel=1e-6)


def test_routing_terms_of_two_ranks_are_those_of_their_windows_together():
    """What each rank computes once `sum_over_ranks` has added the other's sums."""
    model = tiny_model()
    finch, perch = some_codes(3), some_codes(1, seed=5)
    with torch.no_grad():
        together = model({"finch": finch, "perch": perch})
        first, second = model({"finch": finch[:2]}), model({"finch": finch[2:], "perch": perch})
    flat = [
        torch.cat([part.flatten() for part in sums])
        for sums in (*second.encoder_routing, second.decoder_routing)
    ]
    others = iter(flat)
    found = training_losses(
        first, some_targets(first), LossConfig(), lambda sums: sums + next(others)
    )
    expected = training_losses(together, some_targets(together), LossConfig(), no_ranks)
    for name in ("encoder_mi", "encoder_z", "encoder_cv", "decoder_mi", "decoder_z", "decoder_cv"):
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-4), name


def test_a_species_weight_scales_its_poisson_term_alone():
    model = tiny_model()
    with torch.no_grad():
        output = model({"finch": some_codes(2), "perch": some_codes(1)})
    targets = some_targets(output)
    plain = training_losses(output, targets, LossConfig(), no_ranks)
    weighted = training_losses(
        output, targets, LossConfig(species_weight={"perch": 0.25}), no_ranks
    )
    for name, value in plain.items():
        factor = 0.25 if name == "poisson/perch" else 1.0
        torch.testing.assert_close(weighted[name], factor * value)


@pytest.mark.parametrize("unmeasured", [False, True])
def test_track_weights_scale_the_terms_of_their_tracks(unmeasured):
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(2), "perch": some_codes(1)})
    targets = some_targets(output)
    if unmeasured:
        targets["finch"] = some_unmeasured(targets["finch"])
    weights = torch.linspace(0.5, 1.5, targets["finch"].shape[2])
    named = {"finch"} if unmeasured else set()
    plain = species_losses(output, targets, no_ranks, named)
    found = species_losses(output, targets, no_ranks, named, track_weights={"finch": weights})
    measured = ~targets["finch"].isnan()
    expected = np.mean(
        [
            float((weights * poisson_terms(p, targets["finch"]))[measured].mean())
            for p in (output.prediction["finch"], output.enhanced["finch"])
        ]
    )
    assert float(found["finch"].mean) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(found["perch"].mean, plain["perch"].mean)
    sums = poisson_sums(output.prediction["finch"], targets["finch"], weights)
    by_hand = (weights * poisson_terms(output.prediction["finch"], targets["finch"]))[measured]
    torch.testing.assert_close(sums[0], by_hand.sum(dtype=torch.float64))


def test_released_poisson_terms_are_one_mean_per_species():
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(3), "perch": some_codes(1, seed=5)})
    targets = some_targets(output)
    shares = training_losses(output, targets, LossConfig(), no_ranks)
    whole = training_losses(output, targets, LossConfig(poisson_reduction="species"), no_ranks)
    torch.testing.assert_close(whole["poisson/finch"] * 0.75, shares["poisson/finch"])
    torch.testing.assert_close(whole["poisson/perch"] * 0.25, shares["poisson/perch"])


@pytest.mark.parametrize("reduction", ["windows", "species"])
@pytest.mark.parametrize("unmeasured", [False, True])
def test_ranks_of_different_species_average_to_the_loss_of_their_windows_together(
    reduction, unmeasured
):
    """Three finches and a perch, of which the first rank has finches alone."""
    weights = LossConfig(poisson_reduction=reduction, mi_weight=0, z_weight=0, cv_weight=0)
    with torch.no_grad():
        whole = tiny_model()({"finch": some_codes(3), "perch": some_codes(1, seed=5)})
    targets = some_targets(whole)
    if unmeasured:
        targets["finch"] = some_unmeasured(targets["finch"])
    named, on_all_ranks = {"finch"} if unmeasured else set(), {"finch": 3, "perch": 1}
    measured = (~targets["finch"].isnan()).sum()
    both = torch.stack([measured, torch.tensor(2)]).double()  # what the collective finds
    expected = training_losses(whole, targets, weights, no_ranks, named)
    mean = dict.fromkeys(expected, 0.0)
    for finch, perch in ((slice(0, 2), slice(0, 0)), (slice(2, 3), slice(0, 1))):
        mine = {"finch": finch, "perch": perch}
        output = SpaceOutput(
            {name: p[mine[name]] for name, p in whole.prediction.items()},
            {name: p[mine[name]] for name, p in whole.enhanced.items()},
            {}, [], None,
        )  # fmt: skip
        here = {name: target[mine[name]] for name, target in targets.items()}
        found = training_losses(output, here, weights, lambda _: both, named, on_all_ranks)
        for name, value in found.items():
            mean[name] += float(value) / 2
    for name, value in expected.items():
        assert mean[name] == pytest.approx(float(value), rel=1e-5, abs=1e-12), name


def test_with_the_scope_of_a_rank_nothing_is_summed_over_ranks():
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(2), "perch": some_codes(1)})
    targets = some_targets(output)
    found = training_losses(
        output, targets, LossConfig(routing_scope="rank"), lambda sums: pytest.fail("summed")
    )
    expected = training_losses(output, targets, LossConfig(), no_ranks)
    torch.testing.assert_close(found, expected)


def some_unmeasured(target: torch.Tensor, seed: int = 3) -> torch.Tensor:
    """The target with a third of its values not measured."""
    generator = torch.Generator().manual_seed(seed)
    return target.masked_fill(torch.rand(target.shape, generator=generator) < 0.33, torch.nan)


def test_unmeasured_targets_take_no_part():
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(2), "perch": some_codes(2, seed=5)})
    targets = some_targets(output)
    targets["finch"] = some_unmeasured(targets["finch"])
    found = training_losses(output, targets, LossConfig(), no_ranks, {"finch"})
    measured = ~targets["finch"].isnan()
    expected = np.mean(
        [
            float(poisson_loss(p[measured], targets["finch"][measured]))
            for p in (output.prediction["finch"], output.enhanced["finch"])
        ]
    )
    assert float(found["poisson/finch"]) == pytest.approx(expected / 2, rel=1e-6)
    assert torch.isfinite(torch.stack(list(found.values()))).all()


def test_a_species_without_unmeasured_targets_is_as_without_them_at_all():
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(2), "perch": some_codes(1)})
    targets = some_targets(output)
    plain = training_losses(output, targets, LossConfig(), no_ranks)
    targets["finch"] = some_unmeasured(targets["finch"])
    found = training_losses(output, targets, LossConfig(), no_ranks, {"finch"})
    assert torch.equal(found["poisson/perch"], plain["poisson/perch"])


def test_no_collective_without_unmeasured_targets():
    with torch.no_grad():
        output = tiny_model()({"finch": some_codes(2)})
    training_losses(
        output,
        some_targets(output),
        LossConfig(routing_scope="rank"),
        lambda sums: pytest.fail("summed"),
        {"perch"},
    )


@pytest.mark.parametrize("prediction", [1e-30, 0.5, 1e30])
def test_gradients_where_nothing_was_measured_are_exactly_zero(prediction):
    target = torch.tensor([1.0, torch.nan, 2.0, torch.nan])
    predicted = torch.full((4,), prediction, requires_grad=True)
    measured_poisson_loss(predicted, target, torch.tensor(0.5)).backward()
    assert predicted.grad[[1, 3]].tolist() == [0, 0]
    reference = torch.full((2,), prediction, requires_grad=True)
    poisson_loss(reference, target[[0, 2]]).backward()
    torch.testing.assert_close(predicted.grad[[0, 2]], reference.grad)


def test_targets_of_which_none_was_measured_give_no_loss_and_no_gradient():
    prediction = torch.ones(2, 3, 4, requires_grad=True)
    output = SpaceOutput({"finch": prediction}, {}, {}, [], None)
    targets = {"finch": torch.full((2, 3, 4), torch.nan)}
    found = training_losses(output, targets, LossConfig(), no_ranks, {"finch"})
    found["poisson/finch"].backward()
    assert float(found["poisson/finch"].detach()) == 0
    assert not prediction.grad.any()
