"""Ranks that hold different species in a micro-step: gradients arrive alike, and add up rightly."""

import itertools

import pytest
from uneven_species import MICRO_STEPS, Case, fresh_model, in_one_process, on_this_rank

from spacescale.testing.ranks import run_ranks

pytestmark = pytest.mark.long

EVERY = [
    Case(*values, recompute=recompute)
    for recompute in (False, True)
    for values in itertools.product(
        (1, 2, 3), (1, 2), ("moe", "mlp", "none"), ("mixed", "per_species")
    )
]
# Every value of every setting, and each decoder and kind of statistics under ZeRO-2 and ZeRO-3.
SPANNING = [
    Case(1, 2, "moe", "per_species"),
    Case(2, 1, "moe", "mixed"),
    Case(2, 2, "mlp", "per_species", recompute=True),
    Case(2, 2, "none", "mixed"),
    Case(3, 1, "mlp", "mixed"),
    Case(3, 2, "moe", "per_species", recompute=True),
    Case(3, 2, "none", "per_species"),
    Case(2, 2, "moe", "per_species", bf16=True),
]


def check(case: Case, ranks: list[dict]) -> None:
    parameters = {name for name, _ in fresh_model(case).named_parameters()}
    for found in ranks:
        assert all(set(names) == parameters for names in found["arrived"])
        assert all(len(names) == len(parameters) for names in found["arrived"])
        assert found["arrived"] == ranks[0]["arrived"]
        assert found["fingerprints"] == ranks[0]["fingerprints"]
    expected, precision = in_one_process(case), 2e-2 if case.bf16 else 1e-4
    assert ranks[0]["losses"] == pytest.approx(expected["losses"], rel=precision)
    assert ranks[0]["norms"] == pytest.approx(expected["norms"], rel=10 * precision)


@pytest.fixture(scope="module")
def ran():
    return run_ranks(on_this_rank, 2, SPANNING)


@pytest.mark.parametrize("case", SPANNING, ids=str)
def test_ranks_of_different_species_train_as_one_process(ran, case):
    check(case, [rank[case] for rank in ran])


def test_micro_steps_differ_as_they_should():
    counts = [count for micro_step in MICRO_STEPS for count in micro_step.values()]
    assert any(0 in count for count in counts)
    for micro_step in MICRO_STEPS:
        assert [sum(column) for column in zip(*micro_step.values(), strict=True)] == [3, 3]


@pytest.mark.slow
def test_every_way_to_run_ranks_of_different_species():
    ranks = run_ranks(on_this_rank, 2, EVERY, timeout_s=3600)
    for case in EVERY:
        check(case, [rank[case] for rank in ranks])
