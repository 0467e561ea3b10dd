import zlib
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.dataset import sampler
from spacescale.dataset.sampler import Draw, Limit, SampleOrder
from spacescale.errors import UserError

WORLD_SIZES = (1, 2, 4)
NAMES = [f"species{i:02d}" for i in range(24)]
quick = settings(max_examples=30, deadline=None)
few = settings(max_examples=8, deadline=None)  # a cycle of many species takes a while


@st.composite
def orders(draw, most_species: int = 3) -> SampleOrder:
    names = NAMES[: draw(st.integers(1, most_species))]
    return SampleOrder(
        seed=draw(st.integers(0, 10_000)),
        num_windows={name: draw(st.integers(1, 40)) for name in names},
        balance=draw(st.sampled_from([0.0, 0.5, 1.0])),
        micro_batch_size=draw(st.integers(1, 5)),
        world_size=draw(st.sampled_from(WORLD_SIZES)),
        shift_bp=draw(st.integers(0, 3)),
        reverse_complement=draw(st.booleans()),
        importance={name: draw(st.sampled_from([0.5, 1.0, 3.0])) for name in names[::2]},
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


def in_layout(start: SampleOrder, world_size: int, micro_batch_size: int) -> SampleOrder:
    return replace(start, world_size=world_size, micro_batch_size=micro_batch_size)


def in_order(order: SampleOrder, num_windows: int) -> list[Draw]:
    """The first windows of a run, one position after the other."""
    one = in_layout(order, 1, 1)
    return [one.draws(position, 0)[0] for position in range(num_windows)]


def read_by_all_ranks(order: SampleOrder, micro_steps: range) -> list[Counter]:
    """What all ranks together read in each micro-step."""
    ranks = range(order.world_size)
    return [Counter(d for rank in ranks for d in order.draws(i, rank)) for i in micro_steps]


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
def test_ranks_have_as_many_windows_of_each_species_to_within_one(order, step):
    counts = []
    for rank in range(order.world_size):
        species = [draw.species for draw in order.draws(step, rank)]
        assert len(species) == order.micro_batch_size
        assert species == sorted(species)
        counts.append(Counter(species))
    for name in order.num_windows:
        of_ranks = [count[name] for count in counts]
        assert max(of_ranks) - min(of_ranks) <= 1
        assert sum(of_ranks) == order.windows_by_species(step).get(name, 0)


@few
@given(orders(), st.integers(0, 500))
def test_ranks_micro_batch_and_accumulation_do_not_change_what_a_step_reads(order, step):
    """Eight windows a step, from the first step on or from any: (ranks, windows, micro-steps)."""
    expected = Counter()
    for position in range(8 * step, 8 * step + 8):
        expected.update(in_layout(order, 1, 1).draws(position, 0))
    for ranks, size, micro_steps in ((1, 8, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1), (2, 2, 2)):
        here = in_layout(order, ranks, size)
        found = read_by_all_ranks(here, range(step * micro_steps, (step + 1) * micro_steps))
        assert sum(found, Counter()) == expected


@quick
@given(orders())
def test_every_window_is_read_once_per_epoch(order):
    rarest = min(order.shares(), key=lambda name: order.shares()[name] / order.num_windows[name])
    enough = int(2 * order.num_windows[rarest] / order.shares()[rarest]) + 24
    read: dict[str, list[int]] = {name: [] for name in order.num_windows}
    for draw in in_order(order, min(enough, 3000)):
        read[draw.species].append(draw.window)
    for name, windows in read.items():
        size = order.num_windows[name]
        epochs = [windows[i : i + size] for i in range(0, len(windows) - size + 1, size)]
        assert epochs or enough > 3000
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)


@quick
@given(orders(), st.integers(0, 300))
def test_times_drawn_counts_the_draws(order, num_windows):
    counted = Counter((draw.species, draw.window) for draw in in_order(order, num_windows))
    assert order.times_drawn(num_windows) == {
        name: pytest.approx([counted[name, window] for window in range(count)])
        for name, count in order.num_windows.items()
    }


def test_epochs_species_and_seeds_have_orders_of_their_own():
    equal = order(num_windows={"finch": 40, "perch": 40}, world_size=1)
    draws = in_order(equal, 200)
    finch, perch = ([d.window for d in draws if d.species == name] for name in ("finch", "perch"))
    assert finch[:40] != finch[40:80]
    assert finch[:40] != perch[:40]
    other = [d for d in in_order(replace(equal, seed=1), 200) if d.species == "finch"]
    assert [draw.window for draw in other] != finch


def test_a_window_is_augmented_differently_in_each_epoch():
    draws = in_order(order(num_windows={"finch": 40}), 80)
    first, second = ({d.window: d for d in draws[i : i + 40]} for i in (0, 40))
    assert sum(first[window] == second[window] for window in first) < 20


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"balance": 0.0}, [0.8, 0.15, 0.05]),
        ({"balance": 0.5}, [0.5942, 0.2573, 0.1485]),
        ({"balance": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
        ({"balance": 1.0, "importance": {"b": 2.0}}, [0.25, 0.5, 0.25]),
        ({"balance": 0.0, "importance": {"b": 4.0, "c": 8.0}}, [0.4444, 0.3333, 0.2222]),
    ],
)
def test_shares_follow_balance_and_importance(changes, expected):
    unequal = order(num_windows={"a": 1600, "b": 300, "c": 100}, **changes)
    assert list(unequal.shares().values()) == pytest.approx(expected, abs=2e-4)
    species = Counter(draw.species for draw in in_order(unequal, 3000))
    assert [species[name] / 3000 for name in "abc"] == pytest.approx(expected, abs=2e-4)


@few
@given(orders(most_species=24), st.integers(0, 10**7))
def test_after_any_number_of_windows_a_species_is_within_one_of_its_share(order, start):
    shares, num_species = np.array(list(order.shares().values())), len(order.num_windows)
    taken = np.cumsum(order._cycle.places[:, None] == np.arange(num_species), axis=0)
    off = abs(taken - np.arange(1, len(taken) + 1)[:, None] * shares).max()
    assert off <= (1 - 1 / (2 * num_species - 2) if num_species > 1 else 0) + 1e-9
    one = in_layout(order, 1, 64)  # and the windows drawn are those that the cycle names
    counts = Counter(draw.species for draw in one.draws(start, 0))
    for name, share in order.shares().items():
        assert abs(counts[name] - 64 * share) < 2
    assert list(one.windows_by_species(start)) == sorted(counts)


def test_webster_s_rule_would_be_further_off():
    """The measure sees what another rule leaves: one large species before many small ones."""
    shares = np.array([0.7] + [0.3 / 9] * 9)
    taken, worst = np.zeros(10), 0.0
    for place in range(1000):
        taken[np.argmax(shares / (2 * taken + 1))] += 1
        worst = max(worst, abs(taken - (place + 1) * shares).max())
    assert worst > 1


def test_a_species_that_would_never_be_drawn_is_refused():
    with pytest.raises(UserError, match=r"'moth' with 1 windows .*species_importance"):
        order(num_windows={"finch": 10**6, "moth": 1}, balance=0.0)


@pytest.mark.parametrize(
    "changes, on_each_rank, expected",
    [
        ({}, False, 0.0),
        ({"world_size": 1, "micro_batch_size": 1}, False, 1.0),
        ({"world_size": 3, "micro_batch_size": 1}, False, 0.0),
        ({"world_size": 3, "micro_batch_size": 1}, True, 1.0),
        ({"world_size": 3, "micro_batch_size": 3}, True, 0.0),
        ({"num_windows": {"a": 90, "b": 10}, "balance": 0.0, "micro_batch_size": 1}, False, 0.8),
    ],
)
def test_micro_steps_of_one_species_are_counted(changes, on_each_rank, expected):
    found = order(**changes).share_of_one_species(on_each_rank)
    assert found == pytest.approx(expected, abs=0.01)


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


RARE = {"balance": 0.0, "num_windows": {"relative": 300, "finch": 45, "other": 60, "moth": 15}}


def limited(share: float, first: int, **changes) -> SampleOrder:
    return order(**(RARE | changes), limit=Limit(("relative", "other"), share, first))


@pytest.mark.parametrize("share", [0.25, 0.1, 0.0])
def test_limited_species_have_their_share_from_the_position_on(share):
    species = [draw.species for draw in in_order(limited(share, 210), 2210)]
    before, after = Counter(species[:210]), Counter(species[210:])
    for name, size in RARE["num_windows"].items():
        assert abs(before[name] - size / 2) <= 1, name
    expected = {"relative": share * 5 / 6, "other": share / 6}
    expected |= {"finch": (1 - share) * 3 / 4, "moth": (1 - share) / 4}
    for name, part in expected.items():
        assert abs(after[name] - 2000 * part) <= 2, name


def test_windows_of_limited_species_go_on_where_they_were():
    found = in_order(limited(0.25, 210), 1500)
    for name in RARE["num_windows"]:
        numbers = [draw.number for draw in found if draw.species == name]
        assert numbers == list(range(len(numbers))), name
    counted = Counter((draw.species, draw.window) for draw in found)
    for name, times in limited(0.25, 210).times_drawn(1500).items():
        assert times.tolist() == [counted[name, window] for window in range(len(times))]


def test_a_limit_above_the_share_changes_nothing():
    free = order(**RARE)
    assert in_order(limited(0.9, 0), 300) == in_order(free, 300)


@pytest.mark.parametrize(("ranks", "size", "micro_steps"), [(2, 4, 1), (1, 2, 4), (2, 2, 2)])
def test_limits_do_not_depend_on_how_windows_are_dealt(ranks, size, micro_steps):
    expected = in_order(limited(0.3, 24), 64)
    here = in_layout(limited(0.3, 24), ranks, size)
    for step in range(8):
        found = read_by_all_ranks(here, range(step * micro_steps, (step + 1) * micro_steps))
        assert sum(found, Counter()) == Counter(expected[8 * step : 8 * step + 8])


@pytest.mark.parametrize("rare", ["relative", "finch"])
def test_a_species_that_would_not_be_drawn_any_more_is_refused(rare):
    """It has a place among all species, but none among those that share its part from then on."""
    others = {f"other{i}": 1 for i in range(30)}
    names = {"relative": ("relative", "large"), "finch": tuple(others)}[rare]
    sizes = {rare: 1, "large": 10_000, **others}
    assert order(balance=0.0, num_windows=sizes).shares()[rare] > 0
    with pytest.raises(UserError, match=f"'{rare}' with 1 windows would never be drawn"):
        order(balance=0.0, num_windows=sizes, limit=Limit(names, 0.001, 100))
    stopped = order(balance=0.0, num_windows=sizes, limit=Limit(("relative", "large"), 0.0, 100))
    assert stopped.draws(0, 0)


# --- the order that runs of before were drawn in, which those that are resumed rest on ---


class WholeTable(NamedTuple):
    """A cycle that keeps how often every species was taken before each turn: taken (L + 1, S)."""

    places: np.ndarray
    taken: np.ndarray

    @classmethod
    def of(cls, slots):
        """The rule written out: in each turn all species are looked at."""
        length, bound = sum(slots), max(2 * len(slots) - 2, 1)
        wanted = np.array(slots)
        places = np.zeros(length, dtype=np.int64)
        taken = np.zeros((length + 1, len(slots)), dtype=np.int64)
        for place in range(length):
            lag = (place + 1) * wanted - length * taken[place]  # in 1/L of a slot
            slots_left = ((bound - 1) * length - bound * lag) // (bound * np.maximum(wanted, 1))
            may = bound * lag >= length
            places[place] = np.where(may, slots_left, np.iinfo(np.int64).max).argmin()
            taken[place + 1] = taken[place]
            taken[place + 1, places[place]] += 1
        return cls(places, taken)

    def at(self, turns):
        lap, place = np.divmod(turns, len(self.places))
        which = self.places[place]
        return which, lap * self.taken[-1, which] + self.taken[place, which]

    def before(self, turns):
        lap, place = divmod(turns, len(self.places))
        return lap * self.taken[-1] + self.taken[place]


@st.composite
def limited_orders(draw) -> SampleOrder:
    free = draw(orders(most_species=12))
    names = list(free.num_windows)
    rare = tuple(names[: draw(st.integers(0, len(names) - 1))])
    share = draw(st.sampled_from([0.0, 0.01, 0.3]))
    return replace(free, limit=Limit(rare, share, draw(st.integers(0, 20_000))))


@few
@given(orders(most_species=24) | limited_orders(), st.integers(0, 10**6))
def test_the_order_is_that_of_the_rule_written_out(order, windows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "_interleave", WholeTable.of)
        as_before = replace(order)
        ends = as_before.times_drawn(windows)
        first = order.limit.first if order.limit else 0
        positions = np.arange(first, first + 30_000) - min(first, 5_000)
        species, numbers = as_before._at(positions)
    found = order._at(positions)
    assert np.array_equal(found[0], species) and np.array_equal(found[1], numbers)
    assert all(np.array_equal(ends[n], times) for n, times in order.times_drawn(windows).items())


@pytest.mark.parametrize(
    "slots", [(1,), (3, 0), (1, 0, 1), (5, 5, 5, 5), (2, 4, 2, 4, 1), (1, 998)]
)
def test_ties_and_species_without_a_turn_are_as_in_the_rule_written_out(slots):
    cycle, expected = sampler._interleave(slots), WholeTable.of(slots)
    turns = np.arange(3 * sum(slots))
    assert np.array_equal(cycle.at(turns), expected.at(turns))
    assert all(np.array_equal(cycle.before(n), expected.before(n)) for n in turns.tolist())


def test_the_order_of_many_species_is_kept_in_a_few_bytes_a_turn():
    """And is the one that the rule written out gave."""
    slots = tuple(1 + 37 * i * i % 1999 for i in range(165))
    cycle = sampler._interleave(slots)
    assert sum(part.nbytes for part in cycle) < 10 * sum(slots)
    assert zlib.crc32(cycle.places.astype("<i4").tobytes()) == 131715618
