"""What one training on a task gave, as it is kept: a line of JSON and the answers to the test.

Folder of a task: `rows.jsonl`, `answers/METHOD-SEED.npy` float32 (N_test, C); of a share of the
training labels METHOD-SEED-10percent; and of each model that was asked for its table, MODEL.md.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.errors import UserError
from spacescale.files import locked, make_folder, write_text
from spacescale.tuning.fractions import WHOLE

ROWS, ANSWERS, LOCK = "rows.jsonl", "answers", ".rows.lock"


@dataclass(frozen=True)
class Row:
    """One method with one seed.

    key: what it was made with, by which a row is known to hold for a command given again. scores:
    of the test split; unique: of those test sequences that occur in no other split, which are
    num_unique. settings: of the training. seconds: of training and choosing. fraction: percent of
    the training labels that it was given.
    """

    task: str
    method: str
    seed: int
    key: str
    metric: str
    scores: dict[str, float]
    unique: dict[str, float]
    num: dict[str, int]  # sequences by split
    num_unique: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    fraction: float = WHOLE

    @property
    def stem(self) -> str:
        """What the files of the row are called."""
        return stem_of(self.method, self.seed, self.fraction)


def stem_of(method: str, seed: int, fraction: float = WHOLE) -> str:
    """What the files of a method with a seed are called, as yeast_full-0."""
    share = "" if fraction == WHOLE else f"-{fraction:g}percent"
    return f"{file_name(method)}-{seed}{share}"


def file_name(method: str) -> str:
    """A method's name as files bear it: yeast_full."""
    return re.sub(r"[^0-9A-Za-z.+-]+", "_", method)


class Rows:
    """The rows of one task, in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = self._read()

    def _read(self) -> list[Row]:
        rows: list[Row] = []
        if (path := self.folder / ROWS).is_file():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    rows.append(_from_json(line))
                except (json.JSONDecodeError, TypeError, KeyError) as error:
                    raise UserError(f"{path}:{number}: not a row of results: {error}") from None
        return rows

    def find(self, method: str, seed: int, key: str) -> Row | None:
        """The row of a method and seed that was made with `key`, if its answers are there, too."""
        for row in self.rows:
            fits = (row.method, row.seed, row.key) == (method, seed, key)
            if fits and self._answers(row.stem).is_file():
                return row
        return None

    def of(self, method: str, seeds: Sequence[int], fraction: float = WHOLE) -> list[Row]:
        """The rows of a method with these seeds; of what has no seed the one there is."""
        of_share = (row for row in self.rows if row.fraction == fraction)
        return [row for row in of_share if row.method == method and row.seed in seeds]

    def add(self, row: Row, answers: np.ndarray) -> None:
        """Keep a row, in place of one of the same method, seed and fraction.

        Other commands may keep rows of other models in the same folder meanwhile.
        """
        self.drop(row.stem)
        path, array = self._answers(row.stem), io.BytesIO()
        make_folder(path.parent)
        np.save(array, answers.astype(np.float32))
        with locked(self.folder / LOCK):
            write_text(path, array.getvalue())
            self._write([*self._without(row.stem), row])

    def drop(self, stem: str) -> None:
        """Take out the row of this stem, if there is one: before its files give way to others, so
        that a stop in between leaves no row beside what is not its own.
        """
        if (self.folder / ROWS).is_file():
            with locked(self.folder / LOCK):
                self._write(self._without(stem))

    def _without(self, stem: str) -> list[Row]:
        return [row for row in self._read() if row.stem != stem]

    def _write(self, rows: list[Row]) -> None:
        write_text(self.folder / ROWS, "".join(f"{_as_json(one)}\n" for one in rows))
        self.rows = rows

    def answers(self, row: Row) -> np.ndarray:
        """What it answered to the test sequences, float32 (N, C)."""
        return np.load(self._answers(row.stem))

    def _answers(self, stem: str) -> Path:
        return self.folder / ANSWERS / f"{stem}.npy"


def _as_json(row: Row) -> str:
    """JSON has no NaN: what is not defined is null. That a row is of all labels goes unsaid."""
    fields = asdict(row)
    if row.fraction == WHOLE:
        del fields["fraction"]
    for name in ("scores", "unique"):
        fields[name] = {k: None if math.isnan(v) else v for k, v in fields[name].items()}
    return json.dumps(fields, allow_nan=False)


def _from_json(line: str) -> Row:
    fields = json.loads(line)
    for name in ("scores", "unique"):
        fields[name] = {k: math.nan if v is None else v for k, v in fields[name].items()}
    return Row(**fields)
