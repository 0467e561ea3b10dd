"""Rows of a table: which column holds what, and tables whose column `split` sorts the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.tasks.loci import table_loci
from spacescale.tasks.rows import (
    SPLIT_OF,
    Column,
    Found,
    Rows,
    by_split,
    encode_all,
    require_splits,
)
from spacescale.tasks.tables import Table, read_table
from spacescale.tasks.target_words import target_columns


def table_rows(table: Table, codes: list[np.ndarray] | None = None) -> Rows:
    """Rows of a table; codes: of its sequences, where no column holds them."""
    if codes is None:
        codes = encode_all(table.need("sequence", "seq"), table.places)
    targets: dict[str, Column] = {
        "label" if name.lower() == "label" else name: table.columns[name]
        for name in target_columns(table.columns)
    }
    names, groups = table.row_names, table.find("group") or []
    return Rows(codes, targets, table.places, names, groups, loci=table_loci(table))


def read_one_table(path: Path) -> Found:
    """Read a table whose column `split` says train, valid (or dev, val) or test."""
    table = read_table(path)
    words = split_words(table)
    rows = table_rows(table)
    return Found({split: rows.take(where) for split, where in words.items()})


def split_words(table: Table) -> dict[str, list[int]]:
    """{split: its rows} by the column `split`; UserError for other words or a missing split."""
    found: dict[str, list[int]] = {}
    for row, word in enumerate(table.need("split")):
        if word.lower() not in SPLIT_OF:
            raise UserError(
                f"{table.places[row]}: split {word!r}, expected train, valid (dev, val) or test"
            )
        found.setdefault(word.lower(), []).append(row)
    word_of = by_split(table.path, found)
    require_splits(table.path, word_of, "its column 'split'")
    return {split: found[word] for split, word in word_of.items()}
