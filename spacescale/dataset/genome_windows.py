"""Windows anywhere in the sequence that a split may use: for training on bases or tokens.

Which bases the n-th window of a species holds is a pure function of (data, seed, species, n), so a
run reads the same windows in any number of processes, and goes on where it was stopped. `Draw`s of
`sampler.SampleOrder` carry that n.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from spacescale.dataset.reader import reopen
from spacescale.dataset.sampler import permutation
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.dna import reverse_complement

# In a split of which a hundredth is known, chance finds no window in so many draws once in 20,000.
_MOST_DRAWS = 1000


@dataclass(frozen=True)
class WindowChoice:
    """How windows are drawn. Lengths in bp.

    longest_share of the windows have the longest length, the others any from `shortest` (None: as
    `longest`) to it, each as likely; in a shorter stretch a window is as long as that, and one
    shorter than `shortest` holds none. tile: a stretch counts for one window for every tile that
    fits in, and for one at least (None: as `longest`). max_unknown: a window of which a larger
    share is N is drawn again. stream: windows of another name are drawn independently.
    Raises UserError naming the setting, its value and what is allowed.
    """

    longest: int
    shortest: int | None = None
    longest_share: float = 1.0
    tile: int | None = None
    max_unknown: float = 0.1
    reverse_complement: bool = True
    seed: int = 0
    stream: str = ""

    def __post_init__(self):
        if not 1 <= self.least <= self.longest:
            raise UserError(
                f"windows of {self.least} to {self.longest} bp: lengths must be at least 1, and "
                "the shortest no longer than the longest"
            )
        if self.tile is not None and self.tile < 1:
            raise UserError(f"tile {self.tile} must be at least 1")
        for name in ("longest_share", "max_unknown"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise UserError(f"{name} {value} must be from 0 to 1")

    @property
    def least(self) -> int:
        """Length of the shortest windows."""
        return self.longest if self.shortest is None else self.shortest


@dataclass(frozen=True)
class GenomeWindow:
    """Bases of one place, as one strand reads them: L = end − start.

    codes (L,) uint8, A0 C1 G2 T3 N4; repeats (L,) bool, in the order of codes.
    """

    species: str
    chrom: str
    start: int
    end: int
    codes: np.ndarray
    repeats: np.ndarray
    on_reverse_strand: bool = False

    @property
    def unknown_share(self) -> float:
        """Share of N."""
        return float(np.count_nonzero(self.codes == dna.N)) / self.codes.size

    def flipped(self) -> GenomeWindow:
        """The same place as the other strand reads it."""
        return replace(
            self,
            codes=reverse_complement(self.codes),
            repeats=self.repeats[::-1].copy(),
            on_reverse_strand=not self.on_reverse_strand,
        )


class GenomeWindows(Dataset[GenomeWindow]):
    """Windows of one species, none of which holds a base that the split may not use.

    `windows[n]` is the n-th drawn since a run began, n being any number from 0 on. `len` is that of
    an epoch, in which every tile is drawn once, in an order of its own: an equal part of the
    places that a window of that length may have in its stretch. `tiles` are for scores.
    """

    def __init__(self, genome: SpeciesGenome, split: str, choice: WindowChoice):
        """Raises UserError where the split has no stretch that holds a window."""
        self.genome, self.split, self.choice = genome, split, choice
        stretches = genome.stretches(split)
        lengths = stretches.end - stretches.start
        long_enough = lengths >= choice.least
        if not long_enough.any():
            raise UserError(
                f"{genome.path}: no stretch of {split} has {choice.least:,} bp, as a window needs; "
                f"the longest has {lengths.max():,}"
            )
        self._chroms, self._starts = stretches.chrom[long_enough], stretches.start[long_enough]
        self._lengths = lengths[long_enough]
        counts = np.maximum(self._lengths // (choice.tile or choice.longest), 1)
        # Number of the first tile of each stretch, and of all tiles.
        self._first_tiles = np.append(0, np.cumsum(counts))
        self._epoch: tuple[int, np.ndarray] | None = None

    def __reduce__(self) -> tuple:
        """Pickled small, as a folder to open: a process is started only once all is sent to it."""
        found = self.genome.path, self.genome.manifest_hash
        return _reopen_windows, (*found, self.split, self.choice)

    def __len__(self) -> int:
        return int(self._first_tiles[-1])

    @property
    def num_bases(self) -> int:
        """Bases of the stretches that hold windows."""
        return int(self._lengths.sum())

    def __getitem__(self, n: int) -> GenomeWindow:
        """The n-th window; UserError where chance finds none with few enough N."""
        if n < 0:
            raise IndexError(f"window {n}")
        epoch, place = divmod(n, len(self))
        tile = int(self._order_of(epoch)[place])
        for attempt in range(_MOST_DRAWS):
            random = np.random.default_rng([*self._key, n, attempt])
            window = self._draw(tile, random)
            if window.unknown_share <= self.choice.max_unknown:
                return window
            tile = int(random.integers(len(self)))
        raise UserError(
            f"{self.genome.path}: of {_MOST_DRAWS} windows of {self.split} all have more than "
            f"{100 * self.choice.max_unknown:g} % N"
        )

    @cached_property
    def _key(self) -> tuple[int, ...]:
        """What the draws of this species and stream begin with; `sampler` has others."""
        return self.choice.seed, zlib.crc32(self._name.encode()), 2

    @property
    def _name(self) -> str:
        return f"{self.genome.name} {self.choice.stream}".rstrip()

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(self.choice.seed, self._name, epoch, len(self))
            self._epoch = epoch, order
        return self._epoch[1]

    def _draw(self, tile: int, random: np.random.Generator) -> GenomeWindow:
        """A window of a tile; what is drawn first does not depend on what is drawn last."""
        choice = self.choice
        is_longest = random.random() < choice.longest_share
        any_length = int(random.integers(choice.least, choice.longest + 1))
        place, strand = random.random(), random.random()
        stretch = int(np.searchsorted(self._first_tiles, tile, side="right")) - 1
        first, last = self._first_tiles[stretch : stretch + 2].tolist()
        bp = int(self._lengths[stretch])
        length = min(choice.longest if is_longest else any_length, bp)
        places = bp - length + 1
        # A fraction just below 1 may be rounded up.
        offset = min(int((tile - first + place) / (last - first) * places), places - 1)
        window = self._read(stretch, offset, length)
        return window.flipped() if choice.reverse_complement and strand < 0.5 else window

    def _read(self, stretch: int, offset: int, length: int) -> GenomeWindow:
        start = int(self._starts[stretch]) + offset
        place = str(self._chroms[stretch]), start, start + length
        return GenomeWindow(
            self.genome.name, *place, self.genome.codes(*place), self.genome.repeats(*place)
        )

    def tiles(self, most: int | None = None) -> Iterator[GenomeWindow]:
        """Yield windows of the longest length, evenly spread, in genome order and forward.

        They do not overlap unless tiles are shorter. Those with too many N are left out. most:
        read so many of the tiles at most, evenly spaced among all.
        """
        count = len(self) if most is None else min(most, len(self))
        for place in range(count):
            window = self.tile(place * len(self) // count)
            if window.unknown_share <= self.choice.max_unknown:
                yield window

    def tile(self, tile: int) -> GenomeWindow:
        """The window of one tile of an epoch, 0 to `len` − 1, forward, whatever N it holds."""
        stretch = int(np.searchsorted(self._first_tiles, tile, side="right")) - 1
        first, last = self._first_tiles[stretch : stretch + 2].tolist()
        bp = int(self._lengths[stretch])
        length = min(self.choice.longest, bp)
        offset = (bp - length) * (tile - first) // max(last - first - 1, 1)
        return self._read(stretch, offset, length)


def _reopen_windows(path: Path, manifest_hash: str, *others: Any) -> GenomeWindows:
    return GenomeWindows(reopen(path, manifest_hash), *others)
