"""How a sequence that is shorter than the window of pretraining is shown to a model.

Shapes: B sequences, L bp of a sequence, W bp of what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.open_genome import OpenGenome
from spacescale.genome.shuffles import dinucleotide_shuffle
from spacescale.tasks.task import Examples, Locus

Feed = Literal["alone", "flanked", "shuffled", "genome"]
FEEDS: tuple[Feed, ...] = get_args(Feed)
SHUFFLES = 256  # sequences whose shuffles make up the flanks


@dataclass(frozen=True)
class Feeder:
    """Puts sequences where a model sees them.

    feed: `alone`, as they are; `flanked`, N on either side to `window` bp; `shuffled`, sequences of
    the training split with their dinucleotides shuffled on either side, `draws` times, each with
    other flanks; `genome`, where it lies in its genome, N beyond a contig's ends, on its strand.
    A sequence begins at a whole bin, so that its bins are cut alike in every way. background: bases
    (at least 2 W,) to take shuffled flanks from. seed: of them. loci: of the sequences of a split,
    see `of_split`.
    """

    feed: Feed
    window: int
    bin_size: int
    draws: int = 1
    seed: int = 0
    background: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8), compare=False)
    genome: OpenGenome | None = None
    loci: tuple[Locus, ...] = ()

    @classmethod
    def of(
        cls,
        feed: Feed,
        window: int,
        bin_size: int,
        train: Examples,
        draws: int,
        genome: OpenGenome | None = None,
    ) -> Feeder:
        """With what a feed takes from elsewhere: a background of training sequences, or a genome.

        What is fed of the latter is `tasks.loci.in_genome`.
        """
        if feed == "shuffled":
            background = _background(train, 2 * window, 0)
            return cls(feed, window, bin_size, draws, background=background)
        return cls(feed, window, bin_size, genome=genome if feed == "genome" else None)

    def of_split(self, examples: Examples) -> Feeder:
        """For the rows of these sequences."""
        return replace(self, loci=examples.loci)

    def require(self, longest: int) -> None:
        """Raise UserError where sequences of so many bp do not fit."""
        if self.feed != "alone" and longest + self.bin_size > self.window:
            raise UserError(
                f"--feed {self.feed}: sequences of {longest:,} bp do not fit between flanks in "
                f"--window {self.window:,} bp"
            )

    def first(self, length: int) -> int:
        """Where a sequence begins in what is shown, bp."""
        if self.feed == "alone":
            return 0
        return (self.window - length) // 2 // self.bin_size * self.bin_size

    def fed(self, codes: np.ndarray, rows: np.ndarray, draw: int = 0) -> np.ndarray:
        """What is shown of sequences (B, L): uint8 (B, W), or as they are. rows: their numbers.

        A row has the same flanks whatever else is shown with it.
        """
        if self.feed == "alone":
            return codes
        first, length = self.first(codes.shape[1]), codes.shape[1]
        if self.feed == "genome":
            return np.stack([self._context(self.loci[row], first) for row in rows.tolist()])
        shown = np.full((len(codes), self.window), dna.N, dtype=np.uint8)
        if self.feed == "shuffled":
            shown[:] = [self._flanks(row, draw) for row in rows.tolist()]
        shown[:, first : first + length] = codes
        return shown

    def _flanks(self, row: int, draw: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, draw, row])
        at = random.integers(len(self.background) - self.window + 1)
        return self.background[at : at + self.window]

    def _context(self, locus: Locus, first: int) -> np.ndarray:
        """A window of the genome on the sequence's strand, with it at `first`; uint8 (W,)."""
        assert self.genome is not None
        contig = self.genome.contigs[locus.contig]
        # Seen from the other strand, a sequence begins where it ends, and what is before it behind.
        start = locus.end + first - self.window if locus.minus else locus.start - first
        found = contig[max(start, 0) : min(start + self.window, len(contig))]
        shown = np.full(self.window, dna.N, dtype=np.uint8)
        shown[max(-start, 0) :][: len(found)] = found
        return dna.reverse_complement(shown) if locus.minus else shown

    def describe(self) -> str:
        """In the words of a table."""
        where = "the genome" if self.genome is None else self.genome.path.name
        return {
            "alone": "alone: sequences as they are, with nothing around them",
            "flanked": f"flanked: N on either side, to {self.window:,} bp",
            "shuffled": f"shuffled: on either side training sequences with their dinucleotides "
            f"shuffled, to {self.window:,} bp; features are means of {self.draws} such flanks",
            "genome": f"genome: in their places in {where}, on their strand, to "
            f"{self.window:,} bp, N beyond a contig's ends",
        }[self.feed]


def _background(train: Examples, length: int, seed: int) -> np.ndarray:
    """Shuffled training sequences behind each other, uint8, of at least so many bp."""
    random = np.random.default_rng(seed)
    rows = random.permutation(len(train))[:SHUFFLES].tolist()
    found: list[np.ndarray] = []
    while not found or sum(map(len, found)) < length:
        found += [dinucleotide_shuffle(train.codes[row], random) for row in rows]
    return np.concatenate(found)
