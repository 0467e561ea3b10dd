"""Read genomes from FASTA (plain, gzip, bgzip) or 2bit; nothing is written beside the file.

Of FASTA, lines may end in LF, CR LF or CR, be empty, or begin with ';' as comments.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.dna import encode_counting
from spacescale.genome.file_kinds import refuse_other_kinds
from spacescale.genome.text_files import is_gzip
from spacescale.genome.two_bit import is_two_bit, two_bit_records

_CHUNK_BYTES = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Genome:
    """A whole genome in memory, or in a file mapped into memory, one byte a base.

    contigs: {name: codes, uint8 [length]} in the order of the file.
    num_ambiguous: IUPAC letters and X, a hard mask, that were read as N.
    case: {name: a bit a base, 1 for lower case, uint8 [length / 8, rounded up]}, as numpy packs
    them; empty for codes in a file, of which the case was not kept.
    """

    path: Path
    contigs: dict[str, np.ndarray]
    num_ambiguous: int
    case: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def lengths(self) -> dict[str, int]:
        """Length in bp of each contig, in the order of the file."""
        return {name: codes.size for name, codes in self.contigs.items()}

    def lower_case(self, name: str) -> np.ndarray:
        """Return which bases of a contig are in lower case, as repeats are; bool [length]."""
        return np.unpackbits(self.case[name], count=self.contigs[name].size).view(bool)


class _Encoded(NamedTuple):
    """A contig as it is read. ambiguous: letters that became N. case: as in Genome."""

    name: str
    codes: np.ndarray
    ambiguous: int
    case: np.ndarray


def read_genome(
    path: Path, codes_file: Path | None = None, case_file: Path | None = None
) -> Genome:
    """Read every contig of a FASTA (.gz too) or 2bit file; the content decides, not the name.

    codes_file: a new file that takes the codes, so that only one contig at a time is in memory;
    the genome is of use as long as that file is there. case_file: beside it, one for the letter
    case. Contig names end at the first blank.
    Raises UserError, naming file and contig, for a missing, empty, truncated or binary file, text
    without a header, an empty or repeated contig, letters that are no DNA.
    """
    if codes_file is None:
        parts = {part.name: part for part in _encoded(path)}
        contigs = {name: part.codes for name, part in parts.items()}
        case = {name: part.case for name, part in parts.items()}
        return Genome(path, contigs, sum(part.ambiguous for part in parts.values()), case)
    lengths, num_ambiguous = {}, 0
    with ExitStack() as files:
        codes = files.enter_context(codes_file.open("wb"))
        case = files.enter_context(case_file.open("wb")) if case_file else None
        for part in _encoded(path):
            codes.write(part.codes.data)
            if case:
                case.write(part.case.data)
            lengths[part.name] = part.codes.size
            num_ambiguous += part.ambiguous
    return open_codes(path, codes_file, lengths, num_ambiguous, case_file)


def open_codes(
    path: Path,
    codes_file: Path,
    lengths: Mapping[str, int],
    num_ambiguous: int,
    case_file: Path | None = None,
) -> Genome:
    """Return the genome that `read_genome` has written into `codes_file` and `case_file`."""
    codes = _mapped(codes_file, lengths)
    packed = {name: -(-length // 8) for name, length in lengths.items()}
    case = _mapped(case_file, packed) if case_file else {}
    return Genome(path, codes, num_ambiguous, case)


def _mapped(file: Path, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the arrays of these sizes that lie in a file one after another."""
    ends = np.cumsum(list(sizes.values()))
    return dict(zip(sizes, np.split(np.memmap(file, np.uint8, mode="r"), ends[:-1]), strict=True))


def _encoded(path: Path) -> Iterator[_Encoded]:
    names = set()
    for name, letters in _records(path):
        if name in names:
            raise UserError(f"{path}: contig {name!r} occurs twice")
        if not letters:
            raise UserError(f"{path}: contig {name!r} is empty")
        names.add(name)
        # Of a letter, the codes of the lower case are the higher ones.
        case = np.packbits(np.frombuffer(letters, dtype=np.uint8) >= ord("a"))
        yield _Encoded(name, *encode_counting(letters, f"{path}: {name}"), case)
    if not names:
        raise UserError(f"{path} holds no sequence")


def first_bytes(path: Path) -> bytes:
    """Return the first four bytes of a FASTA or 2bit file, which tell which of them it is.

    Raises UserError where it is missing, empty or of a kind that is neither.
    """
    if not path.is_file():
        raise UserError(f"no such FASTA or 2bit file: {path}")
    refuse_other_kinds(path, "a FASTA or 2bit file", {"gzip", "2bit"})
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise UserError(f"{path} is an empty file")
    return start


def _records(path: Path) -> Iterator[tuple[str, bytes | bytearray]]:
    if is_two_bit(first_bytes(path)):
        return two_bit_records(path)
    return _fasta_records(path, gzip.open if is_gzip(path) else Path.open)


def _fasta_records(path: Path, opener) -> Iterator[tuple[str, bytes | bytearray]]:
    try:
        with opener(path, "rb") as file:
            yield from _parse_fasta(path, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a damaged or truncated gzip file ({error})") from error


def _parse_fasta(path: Path, file: IO[bytes]) -> Iterator[tuple[str, bytes | bytearray]]:
    name, letters = None, bytearray()
    for number, line in enumerate(_lines(file), start=1):
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.startswith(b";"):
            continue
        if line.startswith(b">"):
            if name is not None:
                yield name, letters
            name, letters = _contig_name(path, number, line), bytearray()
        elif name is not None:
            letters += line.rstrip()
        elif line.strip():
            found = line.strip()[:20].decode("latin-1")
            raise UserError(
                f"{path}:{number}: expected a FASTA header line '>name', found {found!r}"
            )
    if name is not None:
        yield name, letters


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines without their ends, and a blank one at the end of the file."""
    unfinished: list[bytes] = []
    while chunk := file.read(_CHUNK_BYTES):
        # The two bytes of an end must not be taken for two ends.
        while chunk.endswith(b"\r") and (next_byte := file.read(1)):
            chunk += next_byte
        first, *others = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        unfinished.append(first)
        for line in others:
            yield b"".join(unfinished)
            unfinished = [line]
    yield b"".join(unfinished)


def _contig_name(path: Path, number: int, line: bytes) -> str:
    words = line[1:].split(maxsplit=1)
    if not words:
        raise UserError(f"{path}:{number}: a FASTA header without a name")
    return words[0].decode("utf-8", errors="replace")
