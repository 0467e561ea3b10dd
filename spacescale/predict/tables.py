"""Tables of many rows, written while they are computed: text, or Parquet by pyarrow."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from spacescale.errors import UserError

ENDINGS = (".parquet", ".tsv")
ROWS_AT_ONCE = 50_000  # in memory


class Table(Protocol):
    """A table under way: rows are added, and it is whole when it is closed."""

    def __init__(self, path: Path, columns: Sequence[str]): ...
    def add(self, row: Sequence[Any]) -> None:
        """Add a row, a cell for each column."""
        ...

    def close(self) -> None:
        """Write what waits."""
        ...


def require_table_name(out: Path) -> None:
    """Raise UserError unless a path ends as one of these tables does."""
    if out.suffix not in ENDINGS:
        raise UserError(f"--out {out}: expected a name that ends with {' or '.join(ENDINGS)}")


def table_of(out: Path) -> type[Table]:
    """The kind of table that a path's ending says."""
    return _Parquet if out.suffix == ".parquet" else _Tsv


class _Tsv:
    def __init__(self, path: Path, columns: Sequence[str]):
        self.file = path.open("w", newline="")
        self.writer = csv.writer(self.file, delimiter="\t", lineterminator="\n")
        self.writer.writerow(columns)

    def add(self, row: Sequence[Any]) -> None:
        self.writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])

    def close(self) -> None:
        self.file.close()


class _Parquet:
    def __init__(self, path: Path, columns: Sequence[str]):
        self.arrow, self.parquet = pyarrow("let --out end with .tsv")
        self.path, self.columns = path, columns
        self.waiting: list[Sequence[Any]] = []
        self.writer: Any = None

    def add(self, row: Sequence[Any]) -> None:
        self.waiting.append(row)
        if len(self.waiting) == ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns = dict(zip(self.columns, zip(*self.waiting, strict=True), strict=True))
        table = self.arrow.table({name: list(cells) for name, cells in columns.items()})
        if self.writer is None:
            self.writer = self.parquet.ParquetWriter(str(self.path), table.schema)
        self.writer.write_table(table)
        self.waiting = []

    def close(self) -> None:
        if self.waiting:
            self._flush()
        if self.writer is not None:
            self.writer.close()


def pyarrow(otherwise: str) -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; UserError says what else can be done without."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"Parquet is written by pyarrow: pip install 'spacescale[predict]', or {otherwise}"
        ) from None
    return pyarrow, pyarrow.parquet
