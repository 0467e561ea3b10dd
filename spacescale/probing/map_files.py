"""Attribution maps as they are kept, so that a command given again need not make them.

A file is an .npz of N test sequences, M maps and P pairs of maps; L is the longest sequence in bp:

- key: word that tells of which weights, task and settings the maps are.
- rows: int64 (N,), of the test split; names: N words, as the task calls the sequences; sequences: N
  words of letters ACGTN, as they stand in the task.
- maps: M words MODEL, METHOD; values: float32 (M, N, L), NaN behind the end of a sequence.
- pairs: words (P, 2) of `maps`; pearson: float64 (P, N), NaN where one of the two is constant.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from spacescale.files import write_text
from spacescale.probing.attribution import Pairs, pearson_of


@dataclass(frozen=True)
class Maps:
    """Maps of N test sequences, as a file holds them; values: of each map N float32 (L,)."""

    rows: np.ndarray
    names: Sequence[str]
    sequences: Sequence[str]
    values: Mapping[str, Sequence[np.ndarray]]

    @cached_property
    def pearson(self) -> Pairs:
        """Of every pair of maps, of each sequence."""
        return pearson_of(self.values)


def save_maps(path: Path, key: str, maps: Maps) -> None:
    """Write or replace a file."""
    longest = max(map(len, maps.sequences))
    values = np.full((len(maps.values), len(maps.rows), longest), np.nan, dtype=np.float32)
    for filled, of_map in zip(values, maps.values.values(), strict=True):
        for line, one in zip(filled, of_map, strict=True):
            line[: len(one)] = one
    file = io.BytesIO()
    np.savez_compressed(
        file,
        key=key,
        rows=maps.rows,
        names=maps.names,
        sequences=maps.sequences,
        maps=[*maps.values],
        values=values,
        pairs=[*maps.pearson],
        pearson=[*maps.pearson.values()],
    )
    write_text(path, file.getvalue())


def read_maps(path: Path, key: str) -> Maps | None:
    """The maps of a file; None where it is missing or damaged, or they are not those of the key."""
    try:
        with np.load(path) as file:
            if str(file["key"]) != key:
                return None
            found = {name: file[name] for name in ("rows", "names", "sequences", "maps", "values")}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    names, sequences, maps = (found[name].tolist() for name in ("names", "sequences", "maps"))
    values = {
        name: [line[: len(letters)] for line, letters in zip(of_map, sequences, strict=True)]
        for name, of_map in zip(maps, found["values"], strict=True)
    }
    return Maps(found["rows"], names, sequences, values)
