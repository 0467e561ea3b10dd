"""Which windows each rank reads in each micro-step: a pure function of (seed, micro-step).

Every rank draws the same number of windows of the same species in the same micro-step; the
data-parallel gradient buckets rely on it. Nothing is stored between steps: resuming at any step
needs only its number and, with another number of processes, the turns that were taken before.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from spacescale.errors import UserError

CYCLE_LENGTH = 840  # slots; divisible by 1..8, so equal shares come out exact


@dataclass(frozen=True)
class Draw:
    """One window to read."""

    species: str
    window: int  # position in the species' list of training windows
    shift_bp: int
    reverse_complement: bool


@dataclass(frozen=True)
class Turns:
    """Species take turns of `windows` windows each, from window `first` of the run on.

    `drawn` says how many windows of each species had been read by then.
    """

    windows: int
    first: int = 0
    drawn: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleOrder:
    """The order of a run's training windows.

    Species take turns in fixed proportions, interleaved as evenly as possible; a turn gives every
    rank as many windows, one each unless the run was resumed with fewer processes. Each species
    walks through its own windows in a new permutation per epoch.
    """

    seed: int
    num_windows: dict[str, int]
    balance: float
    micro_batch_size: int
    world_size: int
    shift_bp: int
    reverse_complement: bool
    resumed_turns: Turns | None = None
    # Of each species, the epoch that was last drawn from, and its permutation.
    _epochs: dict[str, tuple[int, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        """Raise UserError for a species so rare that it would never be drawn."""
        _, counts = self._cycle
        for name, turns in zip(self.num_windows, counts[-1], strict=True):
            if not turns:
                raise UserError(
                    f"species {name!r} with {self.num_windows[name]} windows would never be drawn "
                    f"at data.species_balance={self.balance}; take a value nearer to 1"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes are sent no permutations: they work out those that they need."""
        given = {name: value for name, value in vars(self).items() if name != "_cycle"}
        return given | {"_epochs": {}}

    def shares(self) -> dict[str, float]:
        """Fraction of slots per species: N^(1−balance), normalised."""
        raw = {name: n ** (1.0 - self.balance) for name, n in self.num_windows.items()}
        total = sum(raw.values())
        return {name: value / total for name, value in raw.items()}

    @property
    def turns(self) -> Turns:
        """The turns in force: those of the layout that the run was resumed from, or its own."""
        return self.resumed_turns or Turns(self.world_size)

    def draws(self, micro_step: int, rank: int) -> list[Draw]:
        """The windows of one rank in one micro-step, grouped by species."""
        turns, names = self.turns, list(self.num_windows)
        share = turns.windows // self.world_size  # of a turn, for this rank
        first = self._turns_before(micro_step)
        found = []
        for turn in range(first, first + self.micro_batch_size // share):
            index = self._cycle[0][turn % CYCLE_LENGTH]
            name, taken = names[index], self._taken(turn)[index]
            n = turns.drawn.get(name, 0) + int(taken) * turns.windows + rank * share
            found += [(index, self._draw(name, n + i)) for i in range(share)]
        return [draw for _, draw in sorted(found, key=lambda pair: pair[0])]

    def continued(self, turns: Turns, micro_step: int) -> SampleOrder:
        """This order from `micro_step` on, after that of another layout had taken `turns`.

        Where their windows can be dealt out to these ranks, the turns stay and every micro-step
        of as many windows holds the same ones. Else turns of this layout begin, and each species
        goes on with its next window. Windows per optimiser step must be the same.
        """
        here = self.micro_batch_size * self.world_size
        earlier = replace(self, resumed_turns=turns)
        if turns.windows % self.world_size == 0 and here % turns.windows == 0:
            return earlier
        taken = earlier._taken(earlier._turns_before(micro_step))
        drawn = {
            name: turns.drawn.get(name, 0) + int(n) * turns.windows
            for name, n in zip(self.num_windows, taken, strict=True)
        }
        return replace(self, resumed_turns=Turns(self.world_size, micro_step * here, drawn))

    @cached_property
    def _cycle(self) -> tuple[np.ndarray, np.ndarray]:
        return _cycle(tuple(self.shares().values()))

    def _turns_before(self, micro_step: int) -> int:
        window = micro_step * self.micro_batch_size * self.world_size
        return (window - self.turns.first) // self.turns.windows

    def _taken(self, turn: int) -> np.ndarray:
        """Turns that each species (S,) has taken before one."""
        counts = self._cycle[1]
        lap, place = divmod(turn, CYCLE_LENGTH)
        return lap * counts[-1] + counts[place]

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
        )

    def _permutation(self, species: str, epoch: int) -> np.ndarray:
        if species not in self._epochs or self._epochs[species][0] != epoch:
            random = np.random.default_rng([self.seed, zlib.crc32(species.encode()), 0, epoch])
            self._epochs[species] = epoch, random.permutation(self.num_windows[species])
        return self._epochs[species][1]


def _cycle(shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Evenly interleaved species indices for one cycle of slots, by the Webster rule.

    Returns the cycle (CYCLE_LENGTH,) and the turns taken by each species before each slot
    (CYCLE_LENGTH + 1, S).
    """
    taken = np.zeros(len(shares), dtype=np.int64)
    cycle, counts = [], [taken.copy()]
    for _ in range(CYCLE_LENGTH):
        index = int(np.argmax(np.array(shares) / (2 * taken + 1)))
        taken[index] += 1
        cycle.append(index)
        counts.append(taken.copy())
    return np.array(cycle), np.array(counts)
