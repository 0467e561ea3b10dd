"""Which window is read at which position of a run: a pure function of (data, seed, position).

Positions count the windows that all ranks together have read, from 0 on. An optimiser step of G
windows reads positions step · G to (step + 1) · G − 1, in whatever number of processes,
micro-steps and windows per micro-batch, so a resumed run needs to know its step alone.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from spacescale.config import Config
from spacescale.errors import UserError

SLOTS_PER_SPECIES = 1000  # of a cycle: shares are rounded to multiples of 1 / (S · this)
MICRO_STEPS_LOOKED_AT = 1000


@dataclass(frozen=True)
class Draw:
    """One window to read."""

    species: str
    window: int  # position in the species' list of training windows
    shift_bp: int
    reverse_complement: bool
    number: int  # of windows drawn of the species before, by all ranks since the run began


@dataclass(frozen=True)
class Limit:
    """Species that together have at most a share of the windows, from a position of the run on.

    Within it they have what balance and importance give them among themselves, and so have the
    others within the rest.
    """

    species: tuple[str, ...]
    share: float
    first: int


class Cycle(NamedTuple):
    """Turns that things take for ever.

    places: the thing of each turn, int32 (L,), after which it begins again. taken: how often that
    one had been taken before, int32 (L,). slots: how often each is taken in all, int64 (S,).
    """

    places: np.ndarray
    taken: np.ndarray
    slots: np.ndarray

    def at(self, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What has each of these turns, and how many turns it has had before, int64 each."""
        lap, place = np.divmod(turns, len(self.places))
        which = self.places[place].astype(np.int64)
        return which, lap * self.slots[which] + self.taken[place]

    def before(self, turns: int) -> np.ndarray:
        """How many of the first turns each thing has, int64 (S,)."""
        lap, place = divmod(turns, len(self.places))
        return lap * self.slots + np.bincount(self.places[:place], minlength=len(self.slots))


@dataclass(frozen=True)
class _GroupsInTurn:
    """Turns of groups, and within those of a group turns of its members.

    members: of each group, int64 indices among all, and their cycle.
    """

    groups: Cycle
    members: tuple[tuple[np.ndarray, Cycle], ...]

    def at(self, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of a Cycle."""
        group, of_group = self.groups.at(turns)
        which, before = np.empty_like(of_group), np.empty_like(of_group)
        for index, (names, cycle) in enumerate(self.members):
            mine = group == index
            member, before[mine] = cycle.at(of_group[mine])
            which[mine] = names[member]
        return which, before

    def before(self, turns: int) -> np.ndarray:
        """As of a Cycle."""
        found = np.zeros(sum(len(names) for names, _ in self.members), dtype=np.int64)
        counts = self.groups.before(turns).tolist()
        for count, (names, cycle) in zip(counts, self.members, strict=True):
            found[names] = cycle.before(count)
        return found


@dataclass(frozen=True)
class SampleOrder:
    """The order of a run's training windows, and how ranks share it out.

    Species follow each other in fixed proportions, interleaved so evenly that after any number of
    windows each has had its share to within one window. Each species walks through its own windows
    in a new permutation per epoch. Within a micro-step windows are sorted by species and dealt to
    the ranks one by one, so that ranks hold as nearly the same species as their number allows.
    """

    seed: int
    num_windows: dict[str, int]
    balance: float
    micro_batch_size: int
    world_size: int
    shift_bp: int
    reverse_complement: bool
    importance: dict[str, float] = field(default_factory=dict)  # factors on shares, else 1
    limit: Limit | None = None
    # Of each species, the epoch that was last drawn from, and its permutation.
    _epochs: dict[str, tuple[int, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of_run(
        cls,
        config: Config,
        num_windows: dict[str, int],
        micro_batch_size: int,
        world_size: int,
        limit: Limit | None = None,
    ) -> SampleOrder:
        """The order of a run with this configuration; num_windows: of training, by species."""
        data = config.data
        return cls(
            seed=config.run.seed,
            num_windows=num_windows,
            balance=data.species_balance,
            micro_batch_size=micro_batch_size,
            world_size=world_size,
            shift_bp=data.shift_bp,
            reverse_complement=data.reverse_complement,
            importance=data.species_importance,
            limit=limit,
        )

    def __post_init__(self):
        """Raise UserError for a species so rare that it would never be drawn, or not any more."""
        names = list(self.num_windows)
        groups = [(np.arange(len(names)), self._slots), *(self._limited_groups or ())]
        if self.limit is not None and not self.limit.share:
            groups = groups[:2]  # of the limited ones none is to be drawn any more
        drawn = ((names[i], n) for members, of in groups for i, n in zip(members, of, strict=True))
        for name, slots in drawn:
            if not slots:
                raise UserError(
                    f"species {name!r} with {self.num_windows[name]} windows would never be drawn "
                    f"at data.species_balance={self.balance}; take a value nearer to 1, or raise "
                    "its data.species_importance"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes are sent no permutations: they work out those that they need."""
        worked_out = ("_cycle", "_limited")
        given = {name: value for name, value in vars(self).items() if name not in worked_out}
        return given | {"_epochs": {}}

    def shares(self) -> dict[str, float]:
        """Fraction of windows per species: N^(1−balance) · importance, normalised and rounded.

        While no limit holds.
        """
        total = sum(self._slots)
        return {n: slots / total for n, slots in zip(self.num_windows, self._slots, strict=True)}

    def draws(self, micro_step: int, rank: int) -> list[Draw]:
        """The windows of one rank in one micro-step, grouped by species."""
        names = list(self.num_windows)
        species, numbers = self._micro_step(micro_step)
        mine = slice(rank, None, self.world_size)
        return [
            self._draw(names[index], int(n))
            for index, n in zip(species[mine], numbers[mine], strict=True)
        ]

    def times_drawn(self, windows: int) -> dict[str, np.ndarray]:
        """How often each training window is among the first `windows` of the run.

        Species → int64, one for each of its training windows.
        """
        found = {}
        drawn = self._drawn(windows).tolist()
        for of_species, (name, count) in zip(drawn, self.num_windows.items(), strict=True):
            epochs, rest = divmod(of_species, count)
            found[name] = np.full(count, epochs, dtype=np.int64)
            found[name][self._permutation(name, epochs)[:rest]] += 1
        return found

    def windows_by_species(self, micro_step: int) -> dict[str, int]:
        """How many windows of each species all ranks together read in a micro-step, if any."""
        counts = np.bincount(self._micro_step(micro_step)[0], minlength=len(self.num_windows))
        return {n: int(count) for n, count in zip(self.num_windows, counts, strict=True) if count}

    def numbers(self, micro_step: int) -> dict[str, list[int]]:
        """`Draw.number` of all ranks' windows in a micro-step, by species, of those there are."""
        species, numbers = self._micro_step(micro_step)
        found = {name: numbers[species == i].tolist() for i, name in enumerate(self.num_windows)}
        return {name: drawn for name, drawn in found.items() if drawn}

    def share_of_one_species(self, on_each_rank: bool) -> float:
        """Of the first micro-steps, the fraction whose windows are of one species.

        on_each_rank: those of one rank, rather than of all ranks together.
        """
        ranks = self.world_size if on_each_rank else 1
        dealt = (
            self._micro_step(i)[0].reshape(-1, ranks) for i in range(MICRO_STEPS_LOOKED_AT)
        )  # sorted in each column
        return float(np.mean([of_ranks[0] == of_ranks[-1] for of_ranks in dealt]))

    def _micro_step(self, micro_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Species indices, ascending, of all ranks' windows, and the number of each window.

        The number counts the windows drawn of its species since the run began.
        """
        size = self.micro_batch_size * self.world_size
        positions = np.arange(micro_step * size, (micro_step + 1) * size)
        species, numbers = self._at(positions)
        order = np.argsort(species, kind="stable")
        return species[order], numbers[order]

    def _at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Species indices of ascending positions, and the number of each one's window."""
        if self.limit is None or self._limited is None:
            return self._cycle.at(positions)
        first = self.limit.first
        early, late = np.split(positions, [np.searchsorted(positions, first)])
        species, numbers = self._limited.at(late - first)
        numbers += self._before_limit[species]
        before = self._cycle.at(early)
        return np.concatenate([before[0], species]), np.concatenate([before[1], numbers])

    def _drawn(self, windows: int) -> np.ndarray:
        """How many of the first windows each species has, int64 (S,)."""
        if self.limit is None or self._limited is None or windows <= self.limit.first:
            return self._cycle.before(windows)
        return self._before_limit + self._limited.before(windows - self.limit.first)

    @cached_property
    def _before_limit(self) -> np.ndarray:
        """How many windows each species has before the limit, int64 (S,); kept: L turns tell it."""
        assert self.limit is not None
        return self._cycle.before(self.limit.first)

    @cached_property
    def _slots(self) -> tuple[int, ...]:
        return _whole_parts(self._weights)

    @property
    def _weights(self) -> list[float]:
        return [
            size ** (1.0 - self.balance) * self.importance.get(name, 1.0)
            for name, size in self.num_windows.items()
        ]

    @cached_property
    def _cycle(self) -> Cycle:
        return _interleave(self._slots)

    @cached_property
    def _limited_groups(self) -> list[tuple[np.ndarray, tuple[int, ...]]] | None:
        """Members and slots of the other species and of the limited ones, from the limit on.

        None where it leaves all as it is.
        """
        if self.limit is None:
            return None
        weights, share = np.array(self._weights), self.limit.share
        rare = np.array([name in self.limit.species for name in self.num_windows])
        if weights[rare].sum() <= share * weights.sum():
            return None
        members = [np.flatnonzero(~rare), np.flatnonzero(rare)]
        return [(group, _whole_parts(weights[group].tolist())) for group in members]

    @cached_property
    def _limited(self) -> _GroupsInTurn | None:
        """The turns from the limit on; None where it leaves all as it is."""
        if self.limit is None or self._limited_groups is None:
            return None
        share = self.limit.share
        groups = _interleave(_whole_parts([1 - share, share]))
        members = [(group, _interleave(slots)) for group, slots in self._limited_groups]
        return _GroupsInTurn(groups, tuple(members))

    def _draw(self, species: str, n: int) -> Draw:
        """The n-th window drawn of a species, over all ranks."""
        key = (self.seed, zlib.crc32(species.encode()))
        epoch, place = divmod(n, self.num_windows[species])
        random = np.random.default_rng([*key, 1, n])
        return Draw(
            species=species,
            window=int(self._permutation(species, epoch)[place]),
            shift_bp=int(random.integers(-self.shift_bp, self.shift_bp + 1)),
            reverse_complement=bool(self.reverse_complement and random.random() < 0.5),
            number=n,
        )

    def _permutation(self, species: str, epoch: int) -> np.ndarray:
        if species not in self._epochs or self._epochs[species][0] != epoch:
            order = permutation(self.seed, species, epoch, self.num_windows[species])
            self._epochs[species] = epoch, order
        return self._epochs[species][1]


def permutation(seed: int, name: str, epoch: int, count: int) -> np.ndarray:
    """The order of a species' `count` windows in one epoch, int64 (count,)."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), 0, epoch]).permutation(count)


def _whole_parts(weights: list[float]) -> tuple[int, ...]:
    """Share slots out in proportion to weights, by largest remainder; in lowest terms."""
    total = SLOTS_PER_SPECIES * len(weights)
    exact = np.array(weights) * total / sum(weights)
    parts = np.floor(exact).astype(np.int64)
    missing = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    parts //= math.gcd(*parts.tolist())
    return tuple(parts.tolist())


def _interleave(slots: tuple[int, ...]) -> Cycle:
    """A cycle of species indices in which species i has slots[i] places, spread evenly.

    Tijdeman's rule for the chairman assignment problem (1980): of the species that lag behind their
    share far enough, the one that can wait the shortest. After any number of slots, each of S ≥ 2
    species is within 1 − 1/(2S − 2) slots of its share; rules that take the species farthest
    behind, or Webster's, are not. All in whole numbers, so every machine finds the same.

    A species may have its n-th turn from one place on and can wait for it up to another. Whoever
    may not have it yet lies in the heap `early`, by the former, and who may in `due`, by the
    latter; ties go by index. L = Σ slots; what has no slot has no turn.
    """
    length, bound = sum(slots), max(2 * len(slots) - 2, 1)
    places, taken = np.empty(length, dtype=np.int32), np.empty(length, dtype=np.int32)
    turns = [0] * len(slots)
    early = [((length - 1) // (bound * n), which) for which, n in enumerate(slots) if n]
    heapify(early)
    due: list[tuple[int, int]] = []
    for place in range(length):
        while early and early[0][0] <= place:
            _, which = heappop(early)
            last = (bound * (turns[which] + 1) - 1) * length // (bound * slots[which])
            heappush(due, (last, which))
        _, which = heappop(due)
        places[place], taken[place] = which, turns[which]
        turns[which] += 1
        first = ((bound * turns[which] + 1) * length - 1) // (bound * slots[which])
        heappush(early, (first, which))
    return Cycle(places, taken, np.array(slots))
