"""Tables with a header: .csv, .tsv and .txt (tabs), plain or gzip, and .parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacescale.errors import UserError
from spacescale.genome.text_files import LONGEST_LINE, decoded, split_cells, text_lines

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".bed": "\t"}


@dataclass(frozen=True)
class Table:
    """Columns of N words each, by name in the file's order; places: FILE:LINE of each row."""

    path: Path
    columns: dict[str, list[str]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.places)

    def find(self, *names: str) -> list[str] | None:
        """The column that has one of these names, in any case; UserError where two have."""
        found = [column for column in self.columns if column.lower() in names]
        if len(found) > 1:
            raise UserError(
                f"{self.path}: columns {found[0]!r} and {found[1]!r}, expected one of them"
            )
        return self.columns[found[0]] if found else None

    def need(self, *names: str) -> list[str]:
        """The same; UserError where no column has one of these names."""
        found = self.find(*names)
        if found is None:
            raise UserError(
                f"{self.path}: no column {' or '.join(map(repr, names))}; "
                f"it has {', '.join(self.columns) or 'none'}"
            )
        return found

    @property
    def row_names(self) -> list[str]:
        """The column `name`, else the places without the folder."""
        folder = f"{self.path.parent}/"
        return self.find("name") or [place.removeprefix(folder) for place in self.places]


def form_of(path: Path) -> str:
    """The ending of a file's name in lower case, without .gz: '.csv' of train.csv.gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def stem_of(path: Path) -> str:
    """What stands before that ending: 'train' of train.csv.gz."""
    plain = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(plain).stem


def read_table(path: Path) -> Table:
    """Read a table whole.

    Raises UserError naming file and line for a missing or empty file, a row with another number of
    cells than the header, a column that is there twice, and no row at all; for a .parquet without
    pyarrow.
    """
    header, rows, places = (_parquet if form_of(path) == ".parquet" else _text)(path)
    lower = [name.lower() for name in header]
    if twice := [name for name in header if lower.count(name.lower()) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice")
    if not places:
        raise UserError(f"{path}: no row below the header; expected a sequence in each")
    return Table(path, dict(zip(header, rows, strict=True)), places)


def read_shards(paths: Sequence[Path]) -> Table:
    """Read the files of a table one behind the other; UserError where their columns differ."""
    tables = [read_table(path) for path in paths]
    first = tables[0]
    for table in tables:
        if odd := sorted(set(table.columns) ^ set(first.columns)):
            raise UserError(
                f"{table.path} has the columns {', '.join(table.columns)}, {first.path.name} has "
                f"{', '.join(first.columns)}: {odd[0]!r} is in one of them"
            )
    columns = {name: [word for table in tables for word in table.columns[name]]
               for name in first.columns}  # fmt: skip
    return Table(first.path, columns, [place for table in tables for place in table.places])


def column_names(path: Path) -> list[str]:
    """The names of a table's columns, and no more of it; UserError for what cannot be read."""
    if form_of(path) == ".parquet":
        with _open_parquet(path) as file:
            return list(file.schema_arrow.names)
    return _header(_cells(path))


def _header(numbered: Iterator[tuple[int, list[str]]]) -> list[str]:
    return [name.strip().lstrip("#") for name in next(numbered, (1, []))[1]]


def _text(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, columns and places."""
    numbered = _cells(path)
    header = _header(numbered)
    if not header:
        raise UserError(f"{path} is empty; expected a table with a header")
    rows, places = [], []
    for number, cells in numbered:
        if len(cells) != len(header):
            raise UserError(f"{path}:{number}: {len(cells)} cells, the header has {len(header)}")
        rows.append(cells)
        places.append(f"{path}:{number}")
    columns = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    return header, columns or [[] for _ in header], places


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not blank."""
    delimiter = _DELIMITERS[form_of(path)]
    for number, line in text_lines(path, "a table of sequences"):
        if line.strip():
            yield (
                number,
                split_cells(f"{path}:{number}", line, delimiter=delimiter, longest=LONGEST_LINE)
                if '"' in line
                else line.split(delimiter),
            )


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    """A pyarrow.parquet.ParquetFile; UserError where it is none, or pyarrow is not there."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: Parquet is read by pyarrow: pip install 'spacescale[tasks]', or give a .csv"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as a Parquet table ({reason})") from error


def _parquet(path: Path) -> tuple[list[str], list[list[str]], list[str]]:
    with _open_parquet(path) as file:
        table = file.read()
    columns = [[_word(cell) for cell in column.to_pylist()] for column in table.columns]
    places = [f"{path}: row {number}" for number in range(1, table.num_rows + 1)]
    return list(table.column_names), columns, places


def _word(cell: Any) -> str:
    """A list is a word as Python writes it: [0, 1, 1]."""
    if isinstance(cell, bytes):
        return decoded("a cell", cell).strip()
    return "" if cell is None else str(cell).strip()
