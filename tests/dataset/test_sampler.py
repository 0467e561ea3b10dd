from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.dataset.sampler import CYCLE_LENGTH, Draw, SampleOrder

WORLD_SIZES = (1, 2, 4)
quick = settings(max_examples=30, deadline=None)


@st.composite
def orders(draw) -> SampleOrder:
    names = ["finch", "perch", "moth"][: draw(st.integers(1, 3))]
    return SampleOrder(
        seed=draw(st.integers(0, 10_000)),
        num_windows={name: draw(st.integers(1, 40)) for name in names},
        balance=draw(st.sampled_from([0.0, 0.5, 1.0])),
        micro_batch_size=draw(st.integers(1, 5)),
        world_size=draw(st.sampled_from(WORLD_SIZES)),
        shift_bp=draw(st.integers(0, 3)),
        reverse_complement=draw(st.booleans()),
    )


def order(**changes) -> SampleOrder:
    usual = SampleOrder(
        seed=0,
        num_windows={"finch": 45, "perch": 30, "moth": 16},
        balance=1.0,
        micro_batch_size=4,
        world_size=2,
        shift_bp=3,
        reverse_complement=True,
    )
    return replace(usual, **changes)


def turns_by_species(draws: list[Draw]) -> dict[str, list[Draw]]:
    found: dict[str, list[Draw]] = {}
    for draw in draws:
        found.setdefault(draw.species, []).append(draw)
    return found


def read_by_all_ranks(order: SampleOrder, num_micro_steps: int) -> dict[str, list[Draw]]:
    """Each species' draws in the order in which the ranks together walk through its windows."""
    found: dict[str, list[Draw]] = {name: [] for name in order.num_windows}
    for step in range(num_micro_steps):
        ranks = [turns_by_species(order.draws(step, rank)) for rank in range(order.world_size)]
        for name, turns in ranks[0].items():
            for turn in range(len(turns)):
                found[name] += [rank[name][turn] for rank in ranks]
    return found


@quick
@given(orders(), st.integers(0, 5000), st.integers(0, 3))
def test_draws_depend_on_nothing_but_seed_step_and_rank(order, step, rank):
    rank %= order.world_size
    first = order.draws(step, rank)
    order.draws(step + 1, 0)
    assert order.draws(step, rank) == first
    assert replace(order).draws(step, rank) == first


@quick
@given(orders(), st.integers(0, 5000))
def test_all_ranks_have_the_same_species_in_every_micro_step(order, step):
    composition = [draw.species for draw in order.draws(step, 0)]
    assert len(composition) == order.micro_batch_size
    assert composition == sorted(composition, key=list(order.num_windows).index)
    for rank in range(1, order.world_size):
        assert [draw.species for draw in order.draws(step, rank)] == composition


@quick
@given(orders())
def test_every_window_is_read_once_per_epoch(order):
    epochs, slots = 2, 0
    for name, size in order.num_windows.items():
        slots = max(slots, epochs * size / order.world_size / order.shares()[name])
    steps = int(1.1 * slots / order.micro_batch_size) + 4
    for name, draws in read_by_all_ranks(order, steps).items():
        size = order.num_windows[name]
        assert len(draws) >= epochs * size
        for epoch in range(len(draws) // size):
            windows = [draw.window for draw in draws[epoch * size : (epoch + 1) * size]]
            assert sorted(windows) == list(range(size))


def test_epochs_run_on_beyond_the_cycle_of_slots():
    long = order()
    draws = read_by_all_ranks(long, CYCLE_LENGTH // long.micro_batch_size * 2 + 7)
    for name, size in long.num_windows.items():
        windows = [draw.window for draw in draws[name]]
        assert len(windows) > 2 * CYCLE_LENGTH / 3 * long.world_size
        for start in range(0, len(windows) - size + 1, size):
            assert sorted(windows[start : start + size]) == list(range(size))


def test_epochs_species_and_seeds_have_orders_of_their_own():
    equal = order(num_windows={"finch": 40, "perch": 40}, world_size=1)
    draws = read_by_all_ranks(equal, 50)
    finch, perch = ([draw.window for draw in draws[name]] for name in ("finch", "perch"))
    assert finch[:40] != finch[40:80]
    assert finch[:40] != perch[:40]
    other = read_by_all_ranks(replace(equal, seed=1), 50)["finch"]
    assert [draw.window for draw in other] != finch


def test_a_window_is_augmented_differently_in_each_epoch():
    draws = read_by_all_ranks(order(num_windows={"finch": 40}, world_size=1), 20)["finch"]
    first, second = ({d.window: d for d in draws[i : i + 40]} for i in (0, 40))
    assert sum(first[window] == second[window] for window in first) < 20


@pytest.mark.parametrize(
    "balance, expected",
    [(0.0, [0.8, 0.15, 0.05]), (0.5, [0.5942, 0.2573, 0.1485]), (1.0, [1 / 3, 1 / 3, 1 / 3])],
)
def test_shares_follow_the_balance(balance, expected):
    unequal = order(num_windows={"a": 1600, "b": 300, "c": 100}, balance=balance)
    assert list(unequal.shares().values()) == pytest.approx(expected, abs=1e-4)
    species = Counter(
        draw.species for step in range(CYCLE_LENGTH // 4) for draw in unequal.draws(step, 0)
    )
    assert [species[name] / CYCLE_LENGTH for name in "abc"] == pytest.approx(
        expected, abs=1.5 / CYCLE_LENGTH
    )


@quick
@given(orders(), st.integers(1, 600))
def test_species_take_turns_evenly_from_the_start(order, num_micro_steps):
    taken = Counter(
        draw.species for step in range(num_micro_steps) for draw in order.draws(step, 0)
    )
    for name, share in order.shares().items():
        fair = share * num_micro_steps * order.micro_batch_size
        # Each species alone is within one turn; its rounding starts anew with every cycle.
        cycles = num_micro_steps * order.micro_batch_size // CYCLE_LENGTH + 1
        assert abs(taken[name] - fair) <= cycles


def test_a_rare_species_is_half_a_turn_off_at_most():
    unequal = order(num_windows={"finch": 400, "moth": 10}, balance=0.0, micro_batch_size=1)
    rare, taken = unequal.shares()["moth"], 0
    for step in range(CYCLE_LENGTH):
        taken += unequal.draws(step, 0)[0].species == "moth"
        assert abs(taken - rare * (step + 1)) <= 0.5 + 1e-9


def test_shift_and_strand_are_drawn_evenly():
    draws = [draw for step in range(300) for draw in order(world_size=1).draws(step, 0)]
    shifts = Counter(draw.shift_bp for draw in draws)
    assert set(shifts) == set(range(-3, 4))
    assert max(shifts.values()) < 1.5 * min(shifts.values())
    assert 0.45 < sum(draw.reverse_complement for draw in draws) / len(draws) < 0.55


def test_augmentation_can_be_switched_off():
    draws = [
        draw
        for step in range(50)
        for draw in order(shift_bp=0, reverse_complement=False).draws(step, 1)
    ]
    assert {(draw.shift_bp, draw.reverse_complement) for draw in draws} == {(0, False)}


# ---- Going on with another number of processes --------------------------------------------------


def windows_of(order: SampleOrder, micro_steps: range) -> list[Counter]:
    """What all ranks together read in each micro-step."""
    ranks = range(order.world_size)
    return [
        Counter((d.species, d.window, d.shift_bp) for r in ranks for d in order.draws(step, r))
        for step in micro_steps
    ]


def in_layout(start: SampleOrder, world_size: int, micro_batch_size: int) -> SampleOrder:
    return replace(start, world_size=world_size, micro_batch_size=micro_batch_size)


@pytest.mark.parametrize("worlds", [(4, 2), (4, 1), (2, 1), (4, 1, 2), (4, 1, 4), (2, 1, 2)])
def test_fewer_processes_and_back_read_the_same_windows_in_every_micro_step(worlds):
    start = order(world_size=worlds[0], micro_batch_size=8 // worlds[0])
    expected = windows_of(start, range(40))
    now = start
    for place, world in enumerate(worlds[1:], start=1):
        now = in_layout(start, world, 8 // world).continued(now.turns, 10 * place)
        assert windows_of(now, range(10 * place, 40)) == expected[10 * place :]


@pytest.mark.parametrize("world", WORLD_SIZES)
def test_one_species_is_read_in_the_same_order_by_any_number_of_processes(world):
    start = order(num_windows={"finch": 45}, world_size=1, micro_batch_size=8)
    now = in_layout(start, world, 8 // world).continued(start.turns, 10)
    assert windows_of(now, range(10, 40)) == windows_of(start, range(10, 40))


@quick
@given(
    orders(),
    st.lists(st.tuples(st.sampled_from(WORLD_SIZES), st.sampled_from([1, 2])), max_size=4),
)
def test_no_change_of_layout_loses_or_repeats_a_window_in_an_epoch(start, changes):
    """Four windows and two micro-steps of them are a step: (processes, micro-steps per step)."""
    read: dict[str, list[int]] = {name: [] for name in start.num_windows}
    now = None
    for place, (world, accumulation) in enumerate([*changes, (4, 2), (1, 1)]):
        layout = in_layout(start, world, 8 // accumulation // world)
        first = 3 * place * accumulation
        now = layout.continued(now.turns, first) if now else layout
        for found in windows_of(now, range(first, first + 3 * accumulation)):
            for (name, window, _), times in found.items():
                read[name] += [window] * times
        for step in range(first, first + 3 * accumulation):
            species = [[d.species for d in now.draws(step, rank)] for rank in range(world)]
            assert all(here == species[0] for here in species)
            assert len(species[0]) == layout.micro_batch_size
    for name, windows in read.items():
        size = start.num_windows[name]
        epochs, rest = divmod(len(windows), size)
        times = Counter(windows)
        assert sum(times.values()) == len(windows)
        assert all(times[window] in (epochs, epochs + 1) for window in range(size))
        assert sum(times[window] == epochs + 1 for window in range(size)) == rest
