"""Fewer or more processes, other expert parallelism and ZeRO: the same windows in every step."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from elastic_runs import LAST, STOPPED_AT, Leg, losses, refused_out_of_order, run_leg
from small_datasets import small_targets, write_small_dataset

from spacescale.dataset.sampler import SampleOrder
from spacescale.objectives.profiles import warn_of_single_species
from spacescale.overrides import build_config
from spacescale.testing.ranks import run_ranks

pytestmark = pytest.mark.long

RELATIVE = 1e-4


def stopped(world: int, ep_size: int, zero: int) -> Leg:
    return Leg(f"stopped in {world}, ep {ep_size}", world, ep_size, zero, stop=STOPPED_AT)


def going_on(world: int, ep_size: int, zero: int, origin: Leg) -> Leg:
    name = f"{origin.name}, on in {world}"
    return Leg(name, world, ep_size, zero, origin.name, STOPPED_AT)


WHOLE = Leg("whole", world=2, ep_size=2, zero=2)
CHANGES = [
    (stopped(2, ep_size=2, zero=2), going_on(1, 1, 1, stopped(2, 2, 2))),
    (stopped(1, ep_size=1, zero=2), going_on(2, 1, 3, stopped(1, 1, 2))),
]
MORE_CHANGES = [
    (stopped(2, ep_size=1, zero=1), going_on(4, 4, 2, stopped(2, 1, 1))),
    (stopped(4, ep_size=2, zero=3), going_on(2, 2, 1, stopped(4, 2, 3))),
    (stopped(4, ep_size=4, zero=2), going_on(1, 1, 3, stopped(4, 4, 2))),
]


def write_data(folder: Path) -> None:
    for i, (name, tracks) in enumerate({"finch": 3, "moth": 2, "perch": 1}.items()):
        targets = small_targets(i)[..., :tracks]
        write_small_dataset(folder / name, np.ascontiguousarray(targets))


class Runs:
    """Legs that were run, the windows of every step, and its loss."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_data(folder / "data")

    def run(self, leg: Leg) -> list[dict[int, list[tuple[str, int]]]]:
        """What each rank read in each step."""
        ranks = run_ranks(run_leg, leg.world, self.folder, leg)
        one_ahead = min(leg.stop + 1, LAST)
        assert all(list(rank) == list(range(leg.first, one_ahead)) for rank in ranks)
        return ranks

    def losses(self, leg: Leg) -> dict[int, float]:
        return losses(self.folder / leg.name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("elastic"))


@pytest.fixture(scope="module")
def whole(runs):
    return runs.run(WHOLE)


def together(ranks, step: int) -> Counter:
    return Counter(window for rank in ranks for window in rank[step])


def check(runs, whole, before: Leg, after: Leg) -> None:
    """The same windows in every step, and losses that differ by rounding."""
    expected = runs.losses(WHOLE)
    for leg in (before, after):
        ranks = runs.run(leg)
        for step in range(leg.first, leg.stop):
            assert together(ranks, step) == together(whole, step), f"step {step + 1}"
            found = runs.losses(leg)[step + 1]
            assert found == pytest.approx(expected[step + 1], rel=RELATIVE), f"step {step + 1}"


@pytest.mark.parametrize("before, after", CHANGES, ids=lambda leg: leg.name)
def test_a_run_goes_on_in_more_or_fewer_processes(runs, whole, before, after):
    check(runs, whole, before, after)


def test_what_would_be_noticed(runs, whole):
    """Steps read different windows, ranks hold different species, and losses move."""
    assert len({frozenset(together(whole, step).items()) for step in range(LAST)}) == LAST
    species = [[{name for name, _ in rank[step]} for rank in whole] for step in range(LAST)]
    assert any(one != other for one, other in species)
    found = runs.losses(WHOLE).values()
    assert max(found) > (1 + 100 * RELATIVE) * min(found)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", MORE_CHANGES, ids=lambda leg: leg.name)
def test_a_run_goes_on_in_or_after_four_processes(runs, whole, before, after):
    check(runs, whole, before, after)


def test_gradients_in_another_order_on_a_rank_end_the_run_before_anything_is_saved(runs):
    leg = Leg("out of order", world=2, ep_size=1, zero=2)
    for message in run_ranks(refused_out_of_order, 2, runs.folder, leg):
        assert message.startswith("step 1: gradients arrived in different orders on the ranks")
    assert not list((runs.folder / leg.name).glob("checkpoints/step-*"))


@pytest.mark.parametrize(
    "species, world, micro, settings, said",
    [
        (2, 1, 1, [], "all micro-steps, of 1 windows, hold one species alone"),
        (2, 2, 1, [], None),
        (2, 2, 1, ["loss.routing_scope=rank"], "all micro-steps on a rank, of 1 windows, hold"),
        (2, 2, 2, ["loss.routing_scope=rank"], None),
        (2, 1, 2, ['data.species_importance={"a": 9}'], "80% of micro-steps, of 2 windows, hold"),
        (2, 1, 1, ["loss.mi_weight=0"], None),
        (1, 1, 1, [], None),
    ],
)
def test_micro_steps_of_one_species_are_said_with_what_would_help(
    species, world, micro, settings, said, caplog
):
    config = build_config("space_demo", settings)
    num_windows = {"a": 20, "b": 20} if species == 2 else {"a": 20}
    importance = config.data.species_importance
    order = SampleOrder(0, num_windows, 1.0, micro, world, 3, True, importance)
    warn_of_single_species(config, order)
    if said is None:
        assert not caplog.messages
    else:
        (message,) = caplog.messages
        assert message.startswith(said) and "data.micro_batch_size" in message
