"""Runs in 1, 2 and 4 processes equal the plain model in one, for every ZeRO stage and EP size.

The default tier follows the losses of a case over all steps, and of others over the first few; the
long one a case in two processes over all, and those in four over the first few; `-m slow` follows
the others that keep activations over all. Every case prints a line at the
end of the run.
"""

import pytest
import torch
from equivalence import (
    ACCUMULATION,
    CLIP,
    FEW_STEPS,
    STEPS,
    Case,
    batch,
    cases,
    fresh_model,
    of_windows,
    run_by_hand_and_mutated,
    run_cases,
    run_reference,
)

from spacescale.testing.plain_training import accumulate
from spacescale.testing.ranks import run_ranks

GRADIENT, TERM, CURVE = 1e-4, 1e-5, 1e-3


@pytest.fixture(scope="module")
def reference():
    return run_reference()


@pytest.fixture(scope="module")
def ran():
    """Results of a world's cases, by rank; a start that failed fails them all without another."""
    results: dict[tuple, list[dict[Case, dict]] | Exception] = {}

    def run_once(world: int, steps: tuple[tuple[Case, int], ...]) -> list[dict[Case, dict]]:
        key = world, steps
        if key not in results:
            try:
                results[key] = run_ranks(run_cases, world, dict(steps), timeout_s=1800)
            except Exception as error:
                results[key] = error
        found = results[key]
        if isinstance(found, Exception):
            raise found
        return found

    return run_once


# Number of processes → the cases whose whole curves are followed first, by the default tier and by
# the long one. Four processes share few cores: a minute for one curve.
CURVES = {1: [Case(1, 1, False)], 2: [Case(3, 2, False)], 4: []}


def parameters(world: int, curves: list[Case], rest: list[Case], *marks) -> list:
    """One for each case. All are run by the same processes."""
    steps = (*((case, STEPS) for case in curves), *((case, FEW_STEPS) for case in rest))
    return [
        pytest.param(world, steps, case, id=f"world{world}-{case}-{count}-steps", marks=marks)
        for case, count in steps
    ]


SPANNING = [
    *parameters(1, CURVES[1], [case for case in cases(1) if case not in CURVES[1]]),
    *parameters(2, [], cases(2)),
    *parameters(2, CURVES[2], [], pytest.mark.long),
    *parameters(4, CURVES[4], cases(4), pytest.mark.long),
]
OTHER_CURVES = [
    one
    for world, curves in CURVES.items()
    for one in parameters(
        world,
        [case for case in cases(world) if case not in curves and not case.recompute],
        [],
        pytest.mark.slow,
    )
]


def whole(ranks: list[dict], case: Case, name: str, expected: torch.Tensor) -> torch.Tensor:
    """A tensor of the distributed model; expert shares put together, replicas held equal."""
    shares = [rank["moments"][name] for rank in ranks]
    if ".mixture.experts." in name:
        groups = [
            torch.cat(shares[i : i + case.ep_size]) for i in range(0, len(shares), case.ep_size)
        ]
        shares = groups
    assert all(torch.equal(shares[0], other) for other in shares), f"{name} differs between ranks"
    return shares[0].view_as(expected)


def gradient_error(ranks: list[dict], case: Case, reference: dict) -> tuple[float, str]:
    """The worst error of a parameter's gradient, relative to the tensor's maximum.

    One that is zero but for rounding is held against the largest gradient of all.
    """
    expected = reference["moments"]
    largest = max(float(t.abs().max()) for t in expected.values())
    errors = {}
    for name, tensor in expected.items():
        error = float((whole(ranks, case, name, tensor) - tensor).abs().max())
        nothing = name in reference["no_gradient"]
        errors[name] = error / (largest if nothing else float(tensor.abs().max()))
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


def term_error(ranks: list[dict], reference: dict) -> float:
    """The worst relative error of a loss term in the first step; terms of ranks are averaged.

    Mutual information with one species is zero but for rounding: held against the loss.
    """
    worst = 0.0
    for i, terms in enumerate(reference["terms"]):
        floor = 1e-3 * sum(terms.values())
        for name, expected in terms.items():
            mean = sum(rank["terms"][i][name] for rank in ranks) / len(ranks)
            worst = max(worst, abs(mean - expected) / max(abs(expected), floor))
    return worst


@pytest.mark.parametrize("world, steps, case", SPANNING + OTHER_CURVES)
def test_equivalence(world, steps, case, reference, ran, say_at_the_end):
    ranks = [rank[case] for rank in ran(world, steps)]
    gradient, worst = gradient_error(ranks, case, reference)
    loss = term_error(ranks, reference)
    curve = torch.tensor([rank["losses"] for rank in ranks]).mean(0)
    expected = torch.tensor(reference["losses"][: len(curve)])
    drift = float(((curve - expected) / expected).abs().max())
    say_at_the_end(
        f"equivalence zero={case.zero} ep={case.ep_size} world={world} "
        f"{'recomputed' if case.recompute else 'kept'} "
        f"grad={gradient:.1e} loss={loss:.1e} steps={len(curve)} drift={drift:.1e}"
    )
    assert gradient < GRADIENT, worst
    assert loss < TERM
    for rank in ranks:
        assert rank["norms"][0] == pytest.approx(reference["norms"][0], rel=1e-4)
    assert drift < (CURVE if len(curve) == STEPS else TERM)
    for rank in ranks:
        for name, expected in reference["statistics"].items():
            error = (rank["statistics"][name] - expected).abs().max() / expected.abs().max()
            assert error < 1e-4, name


def test_equivalence_is_tried_where_it_could_fail(reference):
    assert reference["margin"] > 1e-3, "a choice of experts could flip by rounding"
    assert reference["norms"][0] > 2 * CLIP, "clipping must take part"
    assert ACCUMULATION > 1 and len(reference["losses"]) == STEPS
    named = reference["moments"].keys() - reference["no_gradient"]
    assert {"species_token.weight", "heads.bee.weight", "stem.0.weight"} < named
    assert all("bias" in name for name in reference["no_gradient"])


@pytest.fixture(scope="module")
def two_ranks():
    return run_ranks(run_by_hand_and_mutated, 2)


def test_equivalence_bites_an_all_to_all_that_is_one_percent_off(two_ranks, reference):
    case = Case(2, ep_size=2, recompute=True)
    error, _ = gradient_error([rank["mutated"] for rank in two_ranks], case, reference)
    assert error > 10 * GRADIENT


def test_equivalence_is_closer_in_float64(two_ranks):
    worst = {}
    for dtype in (torch.float32, torch.float64):
        model = fresh_model().to(dtype)
        codes_and_targets = {n: (c, t.to(dtype)) for n, (c, t) in batch(0, 0, 1).items()}
        accumulate(model, of_windows(codes_and_targets), 1)
        errors = []
        for name, parameter in model.named_parameters():
            shares = [rank[dtype][name] for rank in two_ranks]
            found = torch.cat(shares) if ".mixture." in name else shares[0]
            expected = parameter.grad
            errors.append(float((found - expected).norm()))
        worst[dtype] = max(errors)
    assert worst[torch.float32] < 1e-5
    assert worst[torch.float64] < 1e-6 * worst[torch.float32]
