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
from typing import Any

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
    # Of each species, the epoch that was last drawn from, and its permutation.
    _epochs: dict[str, tuple[int, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of_run(
        cls, config: Config, num_windows: dict[str, int], micro_batch_size: int, world_size: int
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
        )

    def __post_init__(self):
        """Raise UserError for a species so rare that it would never be drawn."""
        for name, slots in zip(self.num_windows, self._slots, strict=True):
            if not slots:
                raise UserError(
                    f"species {name!r} with {self.num_windows[name]} windows would never be drawn "
                    f"at data.species_balance={self.balance}; take a value nearer to 1, or raise "
                    "its data.species_importance"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes are sent no permutations: they work out those that they need."""
        given = {name: value for name, value in vars(self).items() if name != "_cycle"}
        return given | {"_epochs": {}}

    def shares(self) -> dict[str, float]:
        """Fraction of windows per species: N^(1−balance) · importance, normalised and rounded."""
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
        cycle, taken = self._cycle
        lap, place = divmod(windows, len(cycle))
        found = {}
        for index, (name, count) in enumerate(self.num_windows.items()):
            epochs, rest = divmod(int(lap * taken[-1, index] + taken[place, index]), count)
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
        cycle, taken = self._cycle
        lap, place = np.divmod(positions, len(cycle))
        species = cycle[place]
        numbers = lap * taken[-1, species] + taken[place, species]
        order = np.argsort(species, kind="stable")
        return species[order], numbers[order]

    @cached_property
    def _slots(self) -> tuple[int, ...]:
        raw = [
            size ** (1.0 - self.balance) * self.importance.get(name, 1.0)
            for name, size in self.num_windows.items()
        ]
        return _whole_parts(raw, SLOTS_PER_SPECIES * len(raw))

    @cached_property
    def _cycle(self) -> tuple[np.ndarray, np.ndarray]:
        return _interleave(self._slots)

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


def _whole_parts(weights: list[float], total: int) -> tuple[int, ...]:
    """Share `total` out in proportion to weights, by largest remainder; in lowest terms."""
    exact = np.array(weights) * total / sum(weights)
    parts = np.floor(exact).astype(np.int64)
    missing = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    parts //= math.gcd(*parts.tolist())
    return tuple(parts.tolist())


def _interleave(slots: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A cycle of species indices in which species i has slots[i] places, spread evenly.

    Tijdeman's rule for the chairman assignment problem (1980): of the species that lag behind their
    share far enough, the one that can wait the shortest. After any number of slots, each of S ≥ 2
    species is within 1 − 1/(2S − 2) slots of its share; rules that take the species farthest
    behind, or Webster's, are not. All in whole numbers, so every machine finds the same.

    Returns the cycle (L,) int64, where L = Σ slots, and how often each species had been taken
    before each slot (L + 1, S) int64.
    """
    length, bound = sum(slots), max(2 * len(slots) - 2, 1)
    wanted = np.array(slots)
    cycle = np.zeros(length, dtype=np.int64)
    taken = np.zeros((length + 1, len(slots)), dtype=np.int64)
    for place in range(length):
        lag = (place + 1) * wanted - length * taken[place]  # in 1/L of a slot
        slots_left = ((bound - 1) * length - bound * lag) // (bound * wanted)
        may = bound * lag >= length
        cycle[place] = np.where(may, slots_left, np.iinfo(np.int64).max).argmin()
        taken[place + 1] = taken[place]
        taken[place + 1, cycle[place]] += 1
    return cycle, taken
