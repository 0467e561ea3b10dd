"""Per-base coverage from BigWig files, with errors that tell the usual faults apart."""

import struct
from pathlib import Path

import numpy as np

from spacescale.errors import UserError

_BIGWIG, _BIGBED = 0x888FFC26, 0x8789F2EB
_HEADER_BYTES = 64


class BigWig:
    """An open BigWig; a context manager. contigs: {name: length in bp}.

    Raises UserError naming the file when it is missing, empty, truncated or another format.
    """

    def __init__(self, path: Path):
        self.path = path
        _check_header(path)
        try:
            import pyBigWig
        except ImportError as error:
            raise UserError(
                "reading BigWig needs pyBigWig: pip install 'spacescale[prep]'"
            ) from error
        try:
            self._file = pyBigWig.open(str(path))
            self.contigs: dict[str, int] = dict(self._file.chroms())
        except RuntimeError as error:
            raise UserError(f"{path} is a damaged BigWig ({error})") from error

    def __enter__(self) -> "BigWig":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def read(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Return float32 [end - start], one value a base, NaN where the file has none.

        0-based half-open; the interval must lie inside the contig. Infinite values and
        unreadable blocks raise UserError with the position.
        """
        try:
            values = self._file.values(chrom, start, end, numpy=True)
        except RuntimeError as error:
            raise UserError(
                f"{self.path} cannot be read at {chrom}:{start}-{end}: truncated or damaged?"
            ) from error
        infinite = np.flatnonzero(np.isinf(values))
        if infinite.size:
            raise UserError(
                f"{self.path} has infinite coverage at {chrom}:{start + int(infinite[0])} (0-based)"
            )
        return values


def _check_header(path: Path) -> None:
    """Look at the first bytes ourselves: the library has one message for every fault."""
    if not path.is_file():
        raise UserError(f"no such BigWig file: {path}")
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        raise UserError(f"{path} is an empty file, not a BigWig")
    if header.lstrip()[:1] == b"<":
        raise UserError(f"{path} is an HTML or XML page, not a BigWig: a failed download?")
    order = next((o for o in "<>" if _number(header, o) in (_BIGWIG, _BIGBED)), None)
    if order is None:
        raise UserError(f"{path} is not a BigWig (it starts with {header[:8]!r})")
    if _number(header, order) == _BIGBED:
        raise UserError(f"{path} is a BigBed; tracks must be BigWig")
    size = path.stat().st_size
    if len(header) < _HEADER_BYTES or struct.unpack_from(order + "Q", header, 24)[0] >= size:
        raise UserError(f"{path} is a truncated BigWig: its index lies beyond its {size:,} bytes")


def _number(header: bytes, order: str) -> int | None:
    return struct.unpack_from(order + "I", header)[0] if len(header) >= 4 else None
