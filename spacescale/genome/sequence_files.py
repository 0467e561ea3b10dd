"""Read genomes from FASTA (plain, gzip, bgzip) or 2bit; nothing is written beside the file.

Of FASTA, lines may end in LF, CR LF or CR, be empty, or begin with ';' as comments.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
    """

    path: Path
    contigs: dict[str, np.ndarray]
    num_ambiguous: int

    @property
    def lengths(self) -> dict[str, int]:
        """Length in bp of each contig, in the order of the file."""
        return {name: codes.size for name, codes in self.contigs.items()}


def read_genome(path: Path, codes_file: Path | None = None) -> Genome:
    """Read every contig of a FASTA (.gz too) or 2bit file; the content decides, not the name.

    codes_file: a new file that takes the codes, so that only one contig at a time is in memory;
    the genome is of use as long as that file is there. Contig names end at the first blank.
    Raises UserError, naming file and contig, for a missing, empty, truncated or binary file, text
    without a header, an empty or repeated contig, letters that are no DNA.
    """
    if codes_file is None:
        parts = {name: (codes, ambiguous) for name, codes, ambiguous in _encoded(path)}
        contigs = {name: codes for name, (codes, _) in parts.items()}
        return Genome(path, contigs, sum(ambiguous for _, ambiguous in parts.values()))
    lengths, num_ambiguous = {}, 0
    with codes_file.open("wb") as file:
        for name, codes, ambiguous in _encoded(path):
            file.write(codes.data)
            lengths[name] = codes.size
            num_ambiguous += ambiguous
    return open_codes(path, codes_file, lengths, num_ambiguous)


def open_codes(
    path: Path, codes_file: Path, lengths: Mapping[str, int], num_ambiguous: int
) -> Genome:
    """Return the genome whose codes `read_genome` has written into `codes_file`."""
    ends = np.cumsum(list(lengths.values()))
    stored = np.memmap(codes_file, np.uint8, mode="r")
    contigs: dict[str, np.ndarray] = dict(zip(lengths, np.split(stored, ends[:-1]), strict=True))
    return Genome(path, contigs, num_ambiguous)


def _encoded(path: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield name, codes and number of ambiguity letters of each contig."""
    names = set()
    for name, letters in _records(path):
        if name in names:
            raise UserError(f"{path}: contig {name!r} occurs twice")
        if not letters:
            raise UserError(f"{path}: contig {name!r} is empty")
        names.add(name)
        yield name, *encode_counting(letters, f"{path}: {name}")
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
