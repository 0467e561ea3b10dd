"""Genomes of which no more is read than what is asked for.

Of 2bit files, and of FASTA files whose lines are of one length, as nearly all are, any stretch is
read where it lies. Others (gzip, comments, lines of several lengths) are unpacked once into a
temporary file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from spacescale.errors import UserError
from spacescale.files import failed_writes_explained
from spacescale.genome.dna import encode
from spacescale.genome.sequence_files import first_bytes, read_genome
from spacescale.genome.two_bit import TwoBitContig, is_two_bit, two_bit_contigs

_CHUNK_BYTES = 2**24
_LF, _CR = b"\n\r"
_BYTE_ORDER_MARK = 0xEF  # its first byte


class Contig(Protocol):
    """Bases of a contig: `contig[start:end]` are their codes, uint8 (end − start,)."""

    def __len__(self) -> int: ...
    def __getitem__(self, stretch: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class OpenGenome:
    """A genome as a file holds it; contigs are in the order of the file."""

    path: Path
    contigs: Mapping[str, Contig]

    @property
    def lengths(self) -> dict[str, int]:
        """Length in bp of each contig, in the order of the file."""
        return {name: len(contig) for name, contig in self.contigs.items()}


def open_genome(path: Path) -> OpenGenome:
    """Open a FASTA (.gz too) or 2bit file; the content decides, not the name.

    An index FILE.fai is used where it fits the file, without one the lines of a FASTA are counted;
    nothing is written beside the file. Raises UserError as `read_genome`, and where a temporary
    file finds no room; letters that are no DNA are found when they are read.
    """
    if is_two_bit(first_bytes(path)):
        packed = {name: _TwoBit(path, name, contig) for name, contig in two_bit_contigs(path)}
        if packed and all(map(len, packed.values())):
            return OpenGenome(path, packed)
    lines = _from_index(path) or _counted(path)
    if lines is not None:
        return OpenGenome(path, {one.name: one for one in lines})
    with failed_writes_explained(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as tmp:
        # The mapping outlives the file's name.
        return OpenGenome(path, read_genome(path, Path(tmp) / "codes").contigs)


class _TwoBit:
    def __init__(self, path: Path, name: str, contig: TwoBitContig):
        self.contig, self.place = contig, f"{path}: {name}"

    def __len__(self) -> int:
        return self.contig.length

    def __getitem__(self, stretch: slice) -> np.ndarray:
        start, end, _ = stretch.indices(len(self))
        return encode(self.contig.letters(start, max(start, end)), self.place, whole=False)


@dataclass
class _Lines:
    """A contig of a FASTA whose lines, but for the last, have one length."""

    path: Path
    name: str
    offset: int  # of its first base in the file
    length: int = 0  # bases
    line_bases: int = 0
    line_bytes: int = 0  # with the line's end

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, stretch: slice) -> np.ndarray:
        start, end, _ = stretch.indices(self.length)
        if start >= end:
            return np.empty(0, dtype=np.uint8)
        first, last = self.position(start), self.position(end - 1) + 1
        with self.path.open("rb") as file:
            file.seek(first)
            letters = file.read(last - first).replace(b"\n", b"").replace(b"\r", b"")
        if len(letters) != end - start:
            raise UserError(
                f"{self.path}: {self.name} does not lie where it was when the file was opened, or "
                f"where {self.path.name}.fai says"
            )
        place = f"{self.path}: {self.name}, from base {start + 1} on"
        return encode(letters, place, whole=False)

    def position(self, base: int) -> int:
        """Where in the file a base stands."""
        line, column = divmod(base, self.line_bases)
        return self.offset + line * self.line_bytes + column

    def add(self, starts: np.ndarray, lengths: np.ndarray, ends: np.ndarray) -> bool:
        """Take further lines, by their positions in the file; whether they fit those before.

        lengths: in bases; ends: behind the line's end.
        """
        if not self.length:
            self.line_bases, self.line_bytes = int(lengths[0]), int(ends[0] - starts[0])
        bases_before = self.length + np.cumsum(lengths) - lengths
        self.length += int(lengths.sum())
        filled = lengths > 0
        if not self.line_bases:
            return not filled.any()
        expected = self.offset + bases_before // self.line_bases * self.line_bytes
        in_place = (starts == expected) & (bases_before % self.line_bases == 0)
        return bool((in_place | ~filled).all() and (lengths <= self.line_bases).all())


def _from_index(path: Path) -> list[_Lines] | None:
    """What FILE.fai says, as samtools writes it; None where there is none that fits the file."""
    index = path.with_name(f"{path.name}.fai")
    try:
        rows = [line.split("\t") for line in index.read_text().splitlines()]
        found = [
            _Lines(path, name, int(offset), int(length), int(bases), int(width))
            for name, length, offset, bases, width in rows
        ]
    except (OSError, ValueError):
        return None
    with path.open("rb") as file:
        pairs = zip(found, [None, *found], strict=False)
        if not found or not all(_lies_between(file, one, before) for one, before in pairs):
            return None
        file.seek(found[-1].position(found[-1].length - 1))
        end = file.read(_CHUNK_BYTES)
    return found if end[:1].strip() and not end[1:].strip() else None


def _lies_between(file: IO[bytes], contig: _Lines, before: _Lines | None) -> bool:
    """Whether behind the last base of the contig before there is but this one's header line."""
    if min(contig.length, contig.line_bases) < 1 or contig.line_bytes <= contig.line_bases:
        return False
    start = before.position(before.length - 1) if before else 0
    if not 0 < contig.offset - start <= _CHUNK_BYTES:
        return False
    file.seek(start)
    between = file.read(contig.offset - start)
    if before and not between[:1].strip():
        return False
    header = between[1 if before else 0 :].lstrip(b"\r\n").splitlines()
    return len(header) == 1 and header[0][1:].split()[:1] == [contig.name.encode()]


def _counted(path: Path) -> list[_Lines] | None:
    """Where the contigs of a FASTA lie; None where its lines have several lengths, or faults."""
    found: list[_Lines] = []
    with path.open("rb") as file:
        if not all(_take_lines(path, found, at, data) for at, data in _whole_lines(file)):
            return None
    names = {one.name for one in found}
    sound = "" not in names and len(names) == len(found) and all(one.length for one in found)
    return found if found and sound else None


def _take_lines(path: Path, found: list[_Lines], at: int, data: bytes) -> bool:
    """Add whole lines, which begin at a position of the file, to contigs; whether they fit."""
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == _LF)
    starts = np.concatenate([[0], ends[:-1] + 1])
    has_cr = (ends > starts) & (codes[ends - 1] == _CR)
    lengths = ends - starts - has_cr
    is_header = codes[starts] == ord(">")
    last = codes[np.maximum(starts + lengths - 1, 0)]
    blank_at_end = np.isin(last, (ord(" "), ord("\t"))) & ~is_header
    comment = np.isin(codes[starts], (ord(";"), _BYTE_ORDER_MARK))
    if data.count(b"\r") != has_cr.sum() or comment.any() or blank_at_end.any():
        return False
    headers = np.flatnonzero(is_header).tolist()
    for begin, end in zip([0, *(i + 1 for i in headers)], [*headers, len(starts)], strict=True):
        if begin:
            words = data[starts[begin - 1] + 1 : ends[begin - 1]].split(maxsplit=1) or [b""]
            name = words[0].decode(errors="replace")
            found.append(_Lines(path, name, at + int(ends[begin - 1]) + 1))
        part = slice(begin, end)
        if begin < end and not (
            found and found[-1].add(at + starts[part], lengths[part], at + ends[part] + 1)
        ):
            return False
    return True


def _whole_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (position in the file, some lines with their ends); the last may get one."""
    at, size = 0, _CHUNK_BYTES
    while data := file.read(size):
        whole = data.rfind(b"\n") + 1
        if len(data) < size and whole < len(data):
            data, whole = data + b"\n", len(data) + 1
        if whole:
            yield at, data[:whole]
        else:
            size *= 2
        at += whole
        file.seek(at)
