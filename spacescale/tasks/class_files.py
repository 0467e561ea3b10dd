"""Folders {train,test}/CLASS: what lies in them is of that class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from spacescale.errors import UserError
from spacescale.tasks.rows import SPLIT_OF, Found, Rows, by_split, encode_all, require_splits
from spacescale.tasks.tables import stem_of


@dataclass
class Gathered:
    """Rows of one split, class by class."""

    rows: Rows = field(default_factory=lambda: Rows([], {}, [], []))

    def add(self, label: str, rows: Rows) -> None:
        """Take further rows, all of one class."""
        self.rows.codes.extend(rows.codes)
        self.rows.places.extend(rows.places)
        self.rows.names.extend(rows.names)
        self.rows.loci.extend(rows.loci)
        labels = self.rows.targets.setdefault("label", [])
        assert isinstance(labels, list)
        labels.extend([label] * len(rows.codes))


def class_files(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """What lies in the folders of a folder that are called after splits, and is wanted."""
    splits = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.lower() in SPLIT_OF]
    return [
        p for split in splits for p in sorted(split.iterdir()) if p.name[0] != "." and wanted(p)
    ]


def class_splits(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Sort class_files by split; UserError where a split is missing, or it or a class is twice."""
    word_of = by_split(folder, dict.fromkeys(path.parent.name for path in files))
    require_splits(folder, word_of, "its folders")
    found = {
        split: [path for path in files if path.parent.name == word]
        for split, word in word_of.items()
    }
    for paths in found.values():
        for before, path in pairwise(paths):
            if class_of(before) == class_of(path):
                raise UserError(
                    f"{path.parent} has {before.name} and {path.name}, both of the class "
                    f"{class_of(path)!r}; expected one of them"
                )
    return found


def class_of(path: Path) -> str:
    """The class of one of class_files."""
    return path.name if path.is_dir() else stem_of(path)


def class_folders(folder: Path) -> list[Path]:
    """Folders {train,test}/CLASS of a folder, if any of them holds .txt files."""
    found = class_files(folder, Path.is_dir)
    return found if any(any(path.glob("*.txt")) for path in found) else []


def read_class_folders(folder: Path) -> Found:
    """Read class_folders, as the package of Genomic Benchmarks makes them: a sequence per .txt.

    Raises UserError for a class that is empty in a split.
    """
    splits = {}
    for split, classes in class_splits(folder, class_folders(folder)).items():
        gathered = Gathered()
        for path in classes:
            gathered.add(class_of(path), _sequence_files(path))
        splits[split] = gathered.rows
    return Found(splits)


def _sequence_files(folder: Path) -> Rows:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"{folder}: no .txt in it; expected a sequence of this class in each")
    try:
        texts = ["".join(path.read_text(encoding="utf-8").split()) for path in files]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} holds a file that cannot be read ({error})") from error
    places = list(map(str, files))
    return Rows(encode_all(texts, places), {}, places, [path.stem for path in files])
