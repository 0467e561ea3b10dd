"""Which sequences are read when, and as which tensors.

Shapes: N sequences of a split, B of a batch, L bp.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from spacescale.genome import dna
from spacescale.tasks.task import Examples
from spacescale.tuning.encoding import Encoding

SORTED_TOGETHER = 16  # batches within which sequences of like length are brought together
Change = tuple[int, bool]  # bp to move by, and whether to take the reverse complement
AS_IT_IS: Change = (0, False)


@dataclass(frozen=True)
class Batch:
    """Groups of sequences, each a tensor as an `Encoding` makes them, and the rows that they are.

    Rows stand in the order of groups. A group may also be of features (B_g, F) float32, see
    `FeatureReader`. of_all: the rows of all processes.
    """

    groups: list[Tensor]
    rows: np.ndarray
    of_all: np.ndarray


@dataclass(frozen=True)
class Reader:
    """Reads the sequences of one split; they are turned and moved before they are encoded."""

    examples: Examples
    encoding: Encoding

    def batch(
        self, rows: np.ndarray, of_all: np.ndarray | None = None, changes: Mapping[int, Change] = {}
    ) -> Batch:
        """Rows as groups of one size. changes: row → how it is read in this epoch."""
        by_size = defaultdict(list)
        for row in rows.tolist():
            by_size[self.encoding.size(len(self.examples.codes[row]))].append(row)
        groups, order = [], []
        for size, chosen in sorted(by_size.items()):
            codes = [
                changed(self.examples.codes[row], *changes.get(row, AS_IT_IS)) for row in chosen
            ]
            groups.append(self.encoding.tensor(codes, size))
            order += chosen
        ordered = np.array(order, dtype=np.int64)
        return Batch(groups, ordered, ordered if of_all is None else of_all)

    def take(self, rows: np.ndarray) -> Self:
        """A reader of these rows alone, int64, which are 0, 1 … of it."""
        return replace(self, examples=self.examples.take(rows))

    def in_order(self, rank: int, world: int, shown_bp: int | None = None) -> Iterator[Batch]:
        """This process's share of all rows, those of like length together, few where they are long.

        shown_bp: what is made of each, where that is more than it holds.
        """
        share = np.argsort(self.examples.lengths, kind="stable")[rank::world]
        size = self.encoding.at_once(shown_bp or int(self.examples.lengths.max()))
        for first in range(0, len(share), size):
            yield self.batch(share[first : first + size])


@dataclass(frozen=True)
class FeatureReader(Reader):
    """Gives features of sequences in place of their codes, where a trunk does not learn.

    features: whether of the reverse complement → float32 (N, F). Sequences cannot be moved.
    """

    features: Mapping[bool, Tensor] = field(default_factory=dict)

    def batch(
        self, rows: np.ndarray, of_all: np.ndarray | None = None, changes: Mapping[int, Change] = {}
    ) -> Batch:
        """Rows as one group of features."""
        flips = [changes.get(row, AS_IT_IS)[1] for row in rows.tolist()]
        pairs = zip(rows.tolist(), flips, strict=True)
        found = torch.stack([self.features[flip][row] for row, flip in pairs])
        return Batch([found], rows, rows if of_all is None else of_all)

    def take(self, rows: np.ndarray) -> Self:
        """Of these rows alone, with their features."""
        kept = {flip: values[torch.from_numpy(rows)] for flip, values in self.features.items()}
        return replace(self, examples=self.examples.take(rows), features=kept)


def changed(codes: np.ndarray, shift: int = 0, flip: bool = False) -> np.ndarray:
    """Codes (L,) moved to the left, with N where nothing is known; perhaps of the other strand."""
    if shift:
        moved = np.full_like(codes, dna.N)
        kept = codes[max(shift, 0) : max(len(codes) + min(shift, 0), 0)]
        moved[max(-shift, 0) :][: len(kept)] = kept
        codes = moved
    return dna.reverse_complement(codes) if flip else codes


def steps_of_pass(sequences: int, batch_size: int) -> int:
    """How many batches are made of so many sequences; what is left over is not read."""
    return max(1, sequences // batch_size)


def steps_of_epoch(sequences: int, batch_size: int, least_steps: int) -> int:
    """Those of as many passes over the sequences as make least_steps."""
    steps = steps_of_pass(sequences, batch_size)
    return steps * max(1, math.ceil(least_steps / steps))


@dataclass(frozen=True)
class TrainingOrder:
    """Batches of an epoch: a pure function of (seed, epoch), whatever the number of processes.

    least_steps: of an epoch, which is as many passes over the sequences as it takes.
    """

    reader: Reader
    batch_size: int
    seed: int
    shift_bp: int = 0
    reverse_complement: bool = False
    least_steps: int = 1

    @property
    def _steps_of_pass(self) -> int:
        return steps_of_pass(len(self.reader.examples), self.batch_size)

    @property
    def passes(self) -> int:
        """Over all sequences in an epoch; of each another part is left over."""
        return self.steps // self._steps_of_pass

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return steps_of_epoch(len(self.reader.examples), self.batch_size, self.least_steps)

    def epoch(self, number: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's share of each batch of an epoch."""
        for part in range(number * self.passes, (number + 1) * self.passes):
            yield from self._pass(part, rank, world)

    def _pass(self, number: int, rank: int, world: int) -> Iterator[Batch]:
        random = np.random.default_rng([self.seed, number])
        batches = self._batches(random.permutation(len(self.reader.examples)))
        for i in random.permutation(len(batches)).tolist():
            rows = batches[i]
            shifts = random.integers(-self.shift_bp, self.shift_bp + 1, len(rows)).tolist()
            flips = (random.integers(0, 2, len(rows)) * self.reverse_complement).tolist()
            drawn = zip(rows.tolist(), shifts, flips, strict=True)
            changes = {row: (shift, bool(flip)) for row, shift, flip in drawn}
            yield self.reader.batch(rows[rank::world], rows, changes)

    def _batches(self, order: np.ndarray) -> list[np.ndarray]:
        lengths, found = self.reader.examples.lengths, []
        used = order[: self._steps_of_pass * self.batch_size]
        together = SORTED_TOGETHER * self.batch_size
        for first in range(0, len(used), together):
            part = used[first : first + together]
            part = part[np.argsort(lengths[part], kind="stable")]
            found += np.split(part, range(self.batch_size, len(part), self.batch_size))
        return found
