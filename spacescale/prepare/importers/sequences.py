"""The bases of imported windows: compared with the genome, or put together from the windows."""

import fcntl
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

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
_EMPTY = 255  # a base of a piece that no window has told yet


@dataclass
class SequenceCounts:
    """What the bases of some windows told.

    one_sided: bases that are N in the record or in the genome, but not in both, and in how many
    windows. digests: {place of a record: SHA-256 of its bases}, where one is known and no genome
    tells whether they belong there.
    """

    one_sided: int = 0
    one_sided_windows: int = 0
    digests: dict[str, str] = field(default_factory=dict)


@dataclass
class ComparedWithGenome:
    """Compares every window with a genome, whose contigs will be stored whole.

    Where both have a base it must be the same. N on one side only is counted: tools mask
    differently; the genome's bases are kept.
    """

    genome: Genome
    margin: int
    counts: SequenceCounts = field(default_factory=SequenceCounts)

    def add(self, place: str, window: Interval, codes: np.ndarray) -> None:
        """Compare the bases around a target, uint8 [seq_length], with the genome.

        place: where the record was read, for messages. UserError if they cannot be right.
        """
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
        self.counts.one_sided += one_sided
        self.counts.one_sided_windows += bool(one_sided)

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


class PiecedTogether:
    """Puts the windows' own bases together: one piece for windows that overlap or touch.

    file: as `create_pieces` makes it; several processes may fill it at once. pieces: as
    `find_pieces` returns them. Windows that overlap must agree.
    """

    def __init__(self, file: Path, pieces: Sequence[Contig], margin: int):
        self.counts = SequenceCounts()
        self._file, self._margin = file, margin
        self._pieces_of: dict[str, list[Contig]] = {}
        for piece in pieces:
            self._pieces_of.setdefault(piece.name, []).append(piece)

    def add(self, place: str, window: Interval, codes: np.ndarray) -> None:
        """Put the bases around a target, uint8 [seq_length], into their piece.

        They are compared with what is there already. place: as in `ComparedWithGenome.add`.
        """
        if (codes != dna.N).any():
            self.counts.digests[place] = hashlib.sha256(codes.tobytes()).hexdigest()
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
        with self._file.open("r+b") as file:
            # Else two processes could put down windows that differ, and neither see the other's.
            with suppress(OSError):  # a disk without locks; the work folder's own lock says so
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(position)
            stored = np.frombuffer(file.read(codes.size), dtype=np.uint8)
            clash = np.flatnonzero((stored != _EMPTY) & (stored != codes))
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


def create_pieces(file: Path, pieces: Sequence[Contig]) -> None:
    """Make a file of base codes, uint8, one piece after another, with no base known yet."""
    size = pieces[-1].offset + pieces[-1].length
    with file.open("wb") as opened:
        block = bytes([_EMPTY]) * 2**20
        for start in range(0, size, len(block)):
            opened.write(block[: size - start])


def find_pieces(windows: Sequence[Interval], margin: int) -> list[Contig]:
    """Return the stretches that the inputs cover, by contig in the order of the windows."""
    starts: dict[str, list[int]] = {}
    for window in windows:
        starts.setdefault(window.chrom, []).append(window.start)
    span = windows[0].end - windows[0].start
    pieces: list[Contig] = []
    for chrom, targets in starts.items():
        first = np.array(targets, dtype=np.int64) - margin
        covered = Stretches.covered_by(np.maximum(first, 0), first + span + 2 * margin)
        pieces += [
            Contig(name=chrom, start=start, length=end - start, offset=0, whole=False)
            for start, end in zip(covered.starts.tolist(), covered.ends.tolist(), strict=True)
        ]
    ends = np.cumsum([piece.length for piece in pieces]).tolist()
    return [
        replace(piece, offset=end - piece.length) for piece, end in zip(pieces, ends, strict=True)
    ]


def sequence_warnings(counts: Sequence[SequenceCounts], genome: Path | None) -> list[str]:
    """Return what the user should know about the bases; counts: in the order of reading."""
    if one_sided := sum(each.one_sided for each in counts):
        assert genome is not None
        windows = sum(each.one_sided_windows for each in counts)
        return [
            f"{one_sided:,} bases of {windows:,} windows are N in the imported set or in "
            f"{genome.name}, but not in both; the genome's were kept"
        ]
    first_with: dict[str, str] = {}
    twins = []
    for place, digest in chain.from_iterable(each.digests.items() for each in counts):
        known = first_with.setdefault(digest, place)
        if known != place:
            twins.append((known, place))
    if not twins:
        return []
    one, other = twins[0]
    return [
        f"{len(twins):,} windows hold all the bases of an earlier one, such as {other} those of "
        f"{one}: is a file there twice, or a place in two splits? --fasta would tell"
    ]


def _cut(contig: np.ndarray, start: int, length: int) -> np.ndarray:
    """Return uint8 [length] from `start` on, N past the ends of the contig."""
    codes = np.full(length, dna.N, dtype=np.uint8)
    inside = slice(max(start, 0), max(min(start + length, contig.size), 0))
    if inside.start < inside.stop:
        codes[inside.start - start : inside.stop - start] = contig[inside]
    return codes


def _name(window: Interval) -> str:
    return f"{window.chrom}:{window.start}-{window.end}"
