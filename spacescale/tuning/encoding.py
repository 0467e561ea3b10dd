"""How sequences of bases become what a trunk reads.

Shapes: B sequences, L bp, W filled up to whole bins, N tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spacescale.genome import dna
from spacescale.tokens.vocabulary import FILE, Name, Vocabulary

READ_AT_ONCE, BASES_AT_ONCE = 128, 65_536  # where nothing is learnt: sequences, or bp, at the most
PAIRS_AT_ONCE = 2**24  # of tokens that see each other, at the most: float32 of each head
FRAME = 3  # [CLS], prompt, [SEP]
VOCABULARY = "vocabulary"  # folder beside kept weights
BP_OF_BPE = 4  # of a token of a BPE of 4,096, at the least: 4.7 in random bases, 5 in genomes


class Encoding(Protocol):
    """Makes a tensor of sequences of one size."""

    def size(self, length: int) -> int:
        """Of a sequence of so many bp; those of one size go into one tensor."""
        ...

    def tensor(self, codes: Sequence[np.ndarray], size: int) -> Tensor:
        """B codes uint8 (L,) of one size → a tensor with a row for each."""
        ...

    def at_once(self, longest: int) -> int:
        """How many sequences of up to so many bp are read together where nothing is learnt."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What it is made of, as kept models remember it."""
        ...

    def attach(self, folder: Path) -> None:
        """Write what it needs beside kept weights."""
        ...


@dataclass(frozen=True)
class Bases:
    """Base codes uint8 (B, W), filled up with N to whole bins, and to `least` bp.

    So what a model says of a sequence does not depend on those beside it. Sequences of `as_is` bp,
    a task's only length, stay so.
    """

    bin_size: int
    as_is: int | None = None
    least: int = 0

    def size(self, length: int) -> int:
        """W."""
        if length == self.as_is:
            return length
        return max(-(-length // self.bin_size) * self.bin_size, self.least)

    def tensor(self, codes: Sequence[np.ndarray], size: int) -> Tensor:
        """Filled up behind their ends."""
        padded = [np.pad(c, (0, size - len(c)), constant_values=dna.N) for c in codes]
        return torch.from_numpy(np.stack(padded))

    def at_once(self, longest: int) -> int:
        """Few where they are long."""
        return max(1, min(READ_AT_ONCE, BASES_AT_ONCE // self.size(longest)))

    @property
    def facts(self) -> dict[str, Any]:
        """How far sequences are filled up; bins are the model's."""
        return {"as_is": self.as_is, "least": self.least}

    def attach(self, folder: Path) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Tokens:
    """Rows of ids int64 (B, N) in one of a vocabulary's parts, under its prompt, as in pretraining.

    They are filled up with [PAD], to which nothing attends, so that all go into one tensor. They
    are as long as it takes: ALiBi knows no longest row.
    """

    vocabulary: Vocabulary
    name: Name

    def size(self, length: int) -> int:
        """The same of all."""
        return 0

    def tensor(self, codes: Sequence[np.ndarray], size: int) -> Tensor:
        """Filled up to the longest row."""
        vocabulary, name = self.vocabulary, self.name
        rows = [vocabulary.row(vocabulary.encode(one, name), name) for one in codes]
        return torch.from_numpy(vocabulary.pad(rows))

    def at_once(self, longest: int) -> int:
        """Few where they are long: attention's memory grows with the square of it."""
        return max(1, min(READ_AT_ONCE, PAIRS_AT_ONCE // max_tokens(longest, self.name) ** 2))

    @property
    def facts(self) -> dict[str, Any]:
        """Which part of which vocabulary."""
        return {"vocabulary": self.name, "vocabulary_sha256": self.vocabulary.sha256}

    def attach(self, folder: Path) -> None:
        """The vocabulary."""
        (folder / VOCABULARY).mkdir()
        self.vocabulary.write(folder / VOCABULARY / FILE, {})


def max_tokens(length: int, name: Name) -> int:
    """About how long a row of `length` bp is at the most."""
    return FRAME + (length if name == "kmer" else -(-length // BP_OF_BPE))
