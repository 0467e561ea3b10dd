"""The bases of imported windows: compared with the genome, or put together from the windows."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from spacescale.dataset.schema import Contig
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import Genome
from spacescale.genome.stretches import Stretches

_LETTERS = "ACGTN"
# Two unrelated sequences differ at about three of four bases.
_UNRELATED_SHARE = 0.5


class Sequences(Protocol):
    """Takes the bases of every window once, in any order, and gives the genome to store."""

    def add(self, place: str, window: Interval, codes: np.ndarray) -> None:
        """Take the bases around a target, uint8 [seq_length]; UserError if they cannot be right.

        place: where the record was read, for messages.
        """
        ...

    def contigs(self) -> list[Contig]:
        """Return the contigs, or pieces of contigs, to store."""
        ...

    def codes(self) -> Iterator[np.ndarray]:
        """Yield the bases of each of `contigs`."""
        ...

    def warnings(self) -> list[str]:
        """Return what the user should know about the bases."""
        ...


def in_stored_order(pieces: Sequence[Contig]) -> list[Contig]:
    """Return the contigs with the offsets they have one after another."""
    ends = np.cumsum([piece.length for piece in pieces]).tolist()
    return [
        piece.model_copy(update={"offset": end - piece.length})
        for piece, end in zip(pieces, ends, strict=True)
    ]


@dataclass
class ComparedWithGenome:
    """Stores whole contigs of a genome, after a comparison of every window with it.

    Where both have a base it must be the same. N on one side only is counted: tools mask
    differently; the genome's bases are kept.
    """

    genome: Genome
    margin: int
    _chroms: set[str] = field(default_factory=set)
    _windows_with_unknown: int = 0
    _unknown_bases: int = 0

    def add(self, place: str, window: Interval, codes: np.ndarray) -> None:
        """Compare a window with the genome."""
        self._chroms.add(window.chrom)
        expected = _cut(self.genome.contigs[window.chrom], window.start - self.margin, codes.size)
        both_known = (codes != dna.N) & (expected != dna.N)
        differing = np.flatnonzero(both_known & (codes != expected))
        if differing.size:
            raise UserError(self._difference(place, window, codes, expected, differing))
        one_sided = int(np.count_nonzero((codes != dna.N) != (expected != dna.N)))
        if one_sided > codes.size // 2:
            raise UserError(
                f"{place}: {one_sided:,} of {codes.size:,} bases of {_name(window)} are N in the "
                f"record or in {self.genome.path}, but not in both: nothing to compare"
            )
        self._unknown_bases += one_sided
        self._windows_with_unknown += bool(one_sided)

    def _difference(
        self,
        place: str,
        window: Interval,
        codes: np.ndarray,
        expected: np.ndarray,
        differing: np.ndarray,
    ) -> str:
        first = int(differing[0])
        related = differing.size < _UNRELATED_SHARE * codes.size
        hint = "a patched assembly?" if related else "another assembly, or a BED of another order?"
        return (
            f"{place}: {differing.size:,} of {codes.size:,} bases around {_name(window)} differ "
            f"from {self.genome.path}, first at {window.start - self.margin + first} (0-based): "
            f"{_LETTERS[codes[first]]} in the record, {_LETTERS[expected[first]]} in the genome; "
            f"{hint}"
        )

    def contigs(self) -> list[Contig]:
        """Return the whole contigs that carry windows, in the order of the genome."""
        lengths = self.genome.lengths
        return in_stored_order(
            [
                Contig(name=name, length=lengths[name], offset=0)
                for name in lengths
                if name in self._chroms
            ]
        )

    def codes(self) -> Iterator[np.ndarray]:
        """Yield the bases of each contig."""
        return (self.genome.contigs[contig.name] for contig in self.contigs())

    def warnings(self) -> list[str]:
        """Say how many bases only one side knows."""
        if not self._unknown_bases:
            return []
        return [
            f"{self._unknown_bases:,} bases of {self._windows_with_unknown:,} windows are N in the "
            f"imported set or in {self.genome.path.name}, but not in both; the genome's were kept"
        ]


class PiecedTogether:
    """Stores the windows' own bases: one piece for windows that overlap or touch.

    Bases wait in the file `scratch`, because thousands of windows need not fit in memory. Windows
    that overlap must agree.
    """

    _EMPTY = 255

    def __init__(self, scratch: Path, windows: Sequence[Interval], margin: int):
        self._margin = margin
        self._pieces = in_stored_order(_pieces(windows, margin))
        self._pieces_of: dict[str, list[Contig]] = {}
        for piece in self._pieces:
            self._pieces_of.setdefault(piece.name, []).append(piece)
        self._scratch = scratch
        self._place_of: dict[bytes, str] = {}  # by the SHA-256 of a window's bases
        self._twins: list[tuple[str, str]] = []
        size = self._pieces[-1].offset + self._pieces[-1].length
        with scratch.open("wb") as file:
            block = bytes([self._EMPTY]) * 2**20
            for start in range(0, size, len(block)):
                file.write(block[: size - start])

    def add(self, place: str, window: Interval, codes: np.ndarray) -> None:
        """Put a window into its piece, and compare it with what is there already."""
        if (codes != dna.N).any():
            known = self._place_of.setdefault(hashlib.sha256(codes.tobytes()).digest(), place)
            if known != place:
                self._twins.append((known, place))
        before_contig = max(self._margin - window.start, 0)
        if (codes[:before_contig] != dna.N).any():
            raise UserError(
                f"{place}: its sequence has bases before the start of {window.chrom}, where "
                f"{_name(window)} begins: a BED of another order?"
            )
        codes = codes[before_contig:]
        start = window.start - self._margin + before_contig
        piece = self._piece_of(window.chrom, start)
        position = piece.offset + start - piece.start
        with self._scratch.open("r+b") as file:
            file.seek(position)
            stored = np.frombuffer(file.read(codes.size), dtype=np.uint8)
            clash = np.flatnonzero((stored != self._EMPTY) & (stored != codes))
            if clash.size:
                raise UserError(
                    f"{place}: the sequence around {_name(window)} differs from that of an "
                    f"overlapping window, first at {start + int(clash[0])} (0-based): a BED of "
                    "another order?"
                )
            file.seek(position)
            file.write(codes.tobytes())

    def _piece_of(self, chrom: str, start: int) -> Contig:
        pieces = self._pieces_of[chrom]
        return pieces[bisect_right(pieces, start, key=lambda piece: piece.start) - 1]

    def contigs(self) -> list[Contig]:
        """Return the pieces, in the order of the windows."""
        return self._pieces

    def codes(self) -> Iterator[np.ndarray]:
        """Yield the bases of each piece."""
        with self._scratch.open("rb") as file:
            for piece in self._pieces:
                yield np.frombuffer(file.read(piece.length), dtype=np.uint8)

    def warnings(self) -> list[str]:
        """Name windows of other places with the same bases: a file that is there twice, perhaps."""
        if not self._twins:
            return []
        one, other = self._twins[0]
        return [
            f"{len(self._twins):,} windows hold all the bases of an earlier one, such as {other} "
            f"those of {one}: is a file there twice, or a place in two splits? --fasta would tell"
        ]


def _pieces(windows: Sequence[Interval], margin: int) -> list[Contig]:
    """Return the stretches that the inputs cover, by contig in the order of the windows."""
    starts: dict[str, list[int]] = {}
    for window in windows:
        starts.setdefault(window.chrom, []).append(window.start)
    span = windows[0].end - windows[0].start
    pieces = []
    for chrom, targets in starts.items():
        first = np.array(targets, dtype=np.int64) - margin
        covered = Stretches.covered_by(np.maximum(first, 0), first + span + 2 * margin)
        pieces += [
            Contig(name=chrom, start=start, length=end - start, offset=0, whole=False)
            for start, end in zip(covered.starts.tolist(), covered.ends.tolist(), strict=True)
        ]
    return pieces


def _cut(contig: np.ndarray, start: int, length: int) -> np.ndarray:
    """Return uint8 [length] from `start` on, N past the ends of the contig."""
    codes = np.full(length, dna.N, dtype=np.uint8)
    inside = slice(max(start, 0), max(min(start + length, contig.size), 0))
    if inside.start < inside.stop:
        codes[inside.start - start : inside.stop - start] = contig[inside]
    return codes


def _name(window: Interval) -> str:
    return f"{window.chrom}:{window.start}-{window.end}"
