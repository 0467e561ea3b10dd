"""Which windows each rank reads in each micro-step: a pure function of (seed, micro-step).

Every rank draws the same number of windows of the same species in the same micro-step; the
data-parallel gradient buckets rely on it. Nothing is stored between steps, so resuming at any
step needs only its number.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

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
class SampleOrder:
    """The order of a run's training windows.

    A micro-step has `micro_batch_size` slots. A slot belongs to one species and gives every rank
    one window of it. Species take turns in the slots in fixed proportions, interleaved as evenly
    as possible; each species walks through its own windows in a new permutation per epoch.
    """

    seed: int
    num_windows: dict[str, int]
    balance: float
    micro_batch_size: int
    world_size: int
    shift_bp: int
    reverse_complement: bool

    def __post_init__(self):
        """Raise UserError for a species so rare that it would never be drawn."""
        _, counts = _cycle(tuple(self.shares().values()))
        for name, turns in zip(self.num_windows, counts[-1], strict=True):
            if not turns:
                raise UserError(
                    f"species {name!r} with {self.num_windows[name]} windows would never be drawn "
                    f"at data.species_balance={self.balance}; take a value nearer to 1"
                )

    def shares(self) -> dict[str, float]:
        """Fraction of slots per species: N^(1−balance), normalised."""
        raw = {name: n ** (1.0 - self.balance) for name, n in self.num_windows.items()}
        total = sum(raw.values())
        return {name: value / total for name, value in raw.items()}

    def draws(self, micro_step: int, rank: int) -> list[Draw]:
        """The windows of one rank in one micro-step, grouped by species."""
        cycle, counts = _cycle(tuple(self.shares().values()))
        names = list(self.num_windows)
        found = []
        for slot in range(
            micro_step * self.micro_batch_size, (micro_step + 1) * self.micro_batch_size
        ):
            lap, place = divmod(slot, CYCLE_LENGTH)
            index = cycle[place]
            turn = lap * counts[-1][index] + counts[place][index]
            found.append((index, self._draw(names[index], int(turn) * self.world_size + rank)))
        return [draw for _, draw in sorted(found, key=lambda pair: pair[0])]

    def _draw(self, species: str, n: int) -> Draw:
        """The n-th window drawn of a species, over all ranks."""
        key = (self.seed, zlib.crc32(species.encode()))
        epoch, place = divmod(n, self.num_windows[species])
        random = np.random.default_rng([*key, 1, n])
        return Draw(
            species=species,
            window=int(_permutation(*key, epoch, self.num_windows[species])[place]),
            shift_bp=int(random.integers(-self.shift_bp, self.shift_bp + 1)),
            reverse_complement=bool(self.reverse_complement and random.random() < 0.5),
        )


@lru_cache(maxsize=64)
def _permutation(seed: int, species_key: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, species_key, 0, epoch]).permutation(size)


@lru_cache(maxsize=8)
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
