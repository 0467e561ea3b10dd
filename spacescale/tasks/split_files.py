"""Folders with a file per split.

So come GUE (train.csv, dev.csv, test.csv with sequence and label), the tasks of Nucleotide
Transformer (train.fna, test.fna with >name|label), the human sample of DREAM 2022
(sample_train.txt …), data sets of the Hub (data/train-00000-of-00002.parquet …) and most tables of
one's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.text_files import text_lines
from spacescale.tasks.loci import named_loci
from spacescale.tasks.rows import (
    SPLIT_OF,
    Found,
    Rows,
    by_split,
    encode_all,
    require_splits,
)
from spacescale.tasks.table_rows import table_rows
from spacescale.tasks.tables import form_of, read_shards, read_table, stem_of

TABLES = (".csv", ".tsv", ".parquet")
FASTAS = (".fa", ".fasta", ".fna")
# train-00000-of-00002, behind which earlier versions of the Hub's library put a hash.
_SHARD = re.compile(r"(?P<word>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(-[0-9a-f]{16})?")
_LETTERS = "ACGTN"
# lentiMPRA measures elements in both orientations: seq12_F and seq12_Reversed:
_ORIENTATION = re.compile(r"_(F|R|Reversed):?$")
_SHORTEST_ADAPTER = 5


def split_tables(folder: Path) -> list[Path]:
    """Tables of a folder that are called after a split, and shards of such, also in its data/."""
    inside = folder / "data"
    below = _called_after_splits(inside, TABLES, _table_of) if inside.is_dir() else []
    shards = [path for path in below if _SHARD.fullmatch(stem_of(path))]
    return _called_after_splits(folder, TABLES, _table_of) + shards


def split_fastas(folder: Path) -> list[Path]:
    """FASTA files of a folder that are called after a split."""
    return _called_after_splits(folder, FASTAS, stem_of)


def dream_files(folder: Path) -> list[Path]:
    """Files …_train.txt, …_valid.txt, …_test.txt of a folder."""
    return _called_after_splits(folder, (".txt",), _last_part)


def read_split_tables(folder: Path) -> Found:
    """Read split_tables: a column `sequence` or `seq`, targets, and perhaps `name` and `group`."""
    files = _files(folder, split_tables(folder), _table_of)
    return Found({split: table_rows(read_shards(paths)) for split, paths in files})


def read_split_fastas(folder: Path) -> Found:
    """Read split_fastas: the label of a sequence stands behind the last | of its header."""
    files = _files(folder, split_fastas(folder), stem_of)
    return Found({split: _fasta_rows(path) for split, (path,) in files})


def read_dream(folder: Path) -> Found:
    """Read dream_files: columns seq_id, seq and mean_value.

    The two orientations of an element are a group. Adapters at the ends stay, and are told.
    """
    splits = {}
    for split, (path,) in _files(folder, dream_files(folder), _last_part):
        table = read_table(path)
        names = table.need("seq_id")
        groups = [_ORIENTATION.sub("", name) for name in names]
        splits[split] = replace(table_rows(table), names=names, groups=groups)
    return Found(splits, adapter_notes([one for rows in splits.values() for one in rows.codes]))


def _table_of(path: Path) -> str:
    """The stem of a table's file, or of the table that a file is a shard of."""
    stem = stem_of(path)
    shard = _SHARD.fullmatch(stem)
    return shard[1] if shard else stem


def _last_part(path: Path) -> str:
    return stem_of(path).rpartition("_")[2] if "_" in path.name else ""


def _called_after_splits(
    folder: Path, forms: tuple[str, ...], word: Callable[[Path], str]
) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and form_of(path) in forms and word(path).lower() in SPLIT_OF
    ]


def _files(
    folder: Path, files: list[Path], word: Callable[[Path], str]
) -> Iterator[tuple[str, list[Path]]]:
    """Pairs of split and its file, or its shards in order.

    Raises UserError where a split is missing, has two files, or lacks a shard.
    """
    of_word: dict[str, list[Path]] = {}
    for path in files:
        of_word.setdefault(word(path), []).append(path)
    word_of = by_split(folder, of_word)
    require_splits(folder, word_of, "its files " + ", ".join(path.name for path in files))
    return ((split, _whole(folder, of_word[word])) for split, word in word_of.items())


def _whole(folder: Path, files: list[Path]) -> list[Path]:
    """The one file of a split, or its shards in order; UserError where there is another or none."""
    first = files[0]
    wanted = [first]
    if shard := _SHARD.fullmatch(stem_of(first)):
        shards = _shards_like(first, shard["count"], files)
        numbers = [f"{number:05}" for number in range(int(shard["count"]))]
        if missing := [number for number in numbers if number not in shards]:
            name = f"{shard['word']}-{missing[0]}-of-{shard['count']}"
            raise UserError(
                f"{first.with_name(name)}{first.name.removeprefix(shard[0])} is missing; expected "
                f"all {len(numbers)} shards of its split"
            )
        wanted = [shards[number] for number in numbers]
    if others := [path for path in files if path not in wanted]:
        raise UserError(
            f"{folder} has {first.relative_to(folder)} and {others[0].relative_to(folder)} for one "
            "split; expected one of them"
        )
    return wanted


def _shards_like(first: Path, count: str, files: list[Path]) -> dict[str, Path]:
    """By number, those files that are shards of as many, of the same form and folder."""
    found: dict[str, Path] = {}
    for path in files:
        shard = _SHARD.fullmatch(stem_of(path))
        place = path.parent, form_of(path)
        if shard and shard["count"] == count and place == (first.parent, form_of(first)):
            found.setdefault(shard["number"], path)
    return found


def _fasta_rows(path: Path) -> Rows:
    headers: list[str] = []
    letters: list[list[str]] = []
    places: list[str] = []
    for number, line in text_lines(path, "a FASTA file"):
        if line.startswith(">"):
            headers.append(line[1:].strip())
            letters.append([])
            places.append(f"{path}:{number}")
        elif headers:
            letters[-1].append(line.strip())
        elif line.strip():
            raise UserError(
                f"{path}:{number}: {line.strip()[:20]!r}, expected a header '>name|label'"
            )
    if not headers:
        raise UserError(f"{path} holds no sequence; expected headers '>name|label'")
    names, labels = [], []
    for place, header in zip(places, headers, strict=True):
        name, bar, label = header.rpartition("|")
        if not bar or not label.strip():
            raise UserError(f"{place}: header {header!r} has no label; expected '>name|label'")
        names.append(name.strip())
        labels.append(label.strip())
    codes = encode_all(["".join(lines) for lines in letters], places)
    return Rows(codes, {"label": labels}, places, names, loci=named_loci(names))


def adapters(codes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What all sequences begin and end with, codes uint8; nothing where that may be chance."""
    starts, ends = _shared_start(codes), _shared_start([one[::-1] for one in codes])[::-1]
    if min(starts.size, ends.size) < _SHORTEST_ADAPTER:
        return starts[:0], ends[:0]
    return starts, ends


def adapter_notes(codes: list[np.ndarray]) -> list[str]:
    """A note where all sequences begin and end alike."""
    starts, ends = adapters(codes)
    if not starts.size:
        return []
    first, last = ("".join(_LETTERS[code] for code in end) for end in (starts, ends))
    return [
        f"every sequence begins with {first} and ends with {last}, as it was measured: adapters "
        "are left on"
    ]


def _shared_start(codes: list[np.ndarray]) -> np.ndarray:
    """What all sequences begin with, codes uint8."""
    shortest = min(map(len, codes))
    starts = np.stack([one[:shortest] for one in codes])
    same = (starts == starts[0]).all(axis=0)
    return starts[0, : np.logical_and.accumulate(same).sum()]
