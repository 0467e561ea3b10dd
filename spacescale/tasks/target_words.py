"""From the words of label columns to targets: which columns count, of what kind they are.

Shapes: N sequences, C outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.text_files import is_missing
from spacescale.tasks.rows import Column, Rows
from spacescale.tasks.task import Kind

# What a column is for, by its name. The order is that in which a kind given by the user looks.
_COLUMNS: dict[str, tuple[re.Pattern, tuple[Kind, ...]]] = {
    "label": (re.compile(r"label"), ("classes", "labels", "values")),
    "label_…": (re.compile(r"label[_:].+"), ("labels", "values", "classes")),
    "value": (re.compile(r"value|mean_value|target|value_.+"), ("values", "labels", "classes")),
}
_PREFIX = re.compile(r"(label[_:]|value_)(?=.)", re.IGNORECASE)
_LIST = re.compile(r"\[(.*)\]", re.DOTALL)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_MOST_NAMED, _MOST_CLASSES = 10, 20


@dataclass(frozen=True)
class Meaning:
    """Targets by split, as `Examples` has them, with their kind, names and notes."""

    kind: Kind
    outputs: tuple[str, ...]
    targets: dict[str, np.ndarray]
    notes: list[str]


def target_columns(columns: Iterable[str]) -> list[str]:
    """Those of the columns that hold targets, by their names, in their order."""
    patterns = [pattern for pattern, _ in _COLUMNS.values()]
    return [name for name in columns if any(p.fullmatch(name.lower()) for p in patterns)]


def read_targets(splits: dict[str, Rows], kind: Kind | None) -> Meaning:
    """Settle what the label columns mean, and read them.

    kind: overrides what their names say. Raises UserError naming file and line for columns that
    differ between splits or of which it is not clear which count, classes that are not 0…C−1 or
    words, that are in another split and not in train, labels that are not 0 or 1, and values that
    are no finite numbers.
    """
    columns = _same_columns(splits)
    guess, columns = _chosen(splits["train"], columns, kind)
    if len(columns) == 1 and kind != "classes" and _several(splits["train"].targets[columns[0]]):
        splits, columns = _apart(splits, columns[0])
        guess = "labels" if guess == "classes" else guess
    if guess == "classes":
        return _classes(splits, columns)
    read = _zeros_and_ones if guess == "labels" else _matrix
    targets = {split: read(rows, columns) for split, rows in splits.items()}
    unknown = np.flatnonzero(np.isnan(targets["train"]).all(axis=0))
    if unknown.size:
        raise UserError(
            f"{splits['train'].places[0]}: {columns[unknown[0]]} is known of no sequence in train"
        )
    notes = [] if kind else _number_notes(columns, targets)
    return Meaning(guess, tuple(_PREFIX.sub("", name) for name in columns), targets, notes)


def _same_columns(splits: dict[str, Rows]) -> list[str]:
    columns = list(splits["train"].targets)
    for split, rows in splits.items():
        if set(rows.targets) != set(columns):
            odd = sorted(set(rows.targets) ^ set(columns))[0]
            raise UserError(
                f"{rows.places[0]}: the {split} split has the targets "
                f"{', '.join(rows.targets) or 'none'}, train has {', '.join(columns) or 'none'}: "
                f"{odd!r} is in one of them"
            )
    return columns


def _chosen(train: Rows, columns: list[str], kind: Kind | None) -> tuple[Kind, list[str]]:
    """The kind, and the columns that count."""
    found = {
        word: (kinds, fitting)
        for word, (pattern, kinds) in _COLUMNS.items()
        if (fitting := [name for name in columns if pattern.fullmatch(name.lower())])
    }
    place = train.places[0]
    if not found:
        raise UserError(f"{place}: no column of targets; expected {', '.join(_COLUMNS)} or target")
    if kind is None and len(found) > 1:
        names = " and ".join(repr(fitting[0]) for _, fitting in found.values())
        raise UserError(f"{place}: columns {names} are targets of several kinds; give --kind")
    kinds, fitting = min(found.values(), key=lambda one: one[0].index(kind or one[0][0]))
    return kind or kinds[0], fitting


def _several(cells: Column) -> bool:
    """Whether cells hold lists, or several numbers as 0,1,1."""
    if isinstance(cells, np.ndarray):
        return False
    first = next((word for word in cells if "," in word or _LIST.fullmatch(word)), "")
    if _LIST.fullmatch(first):
        return True
    return "," in first and all(_NUMBER.fullmatch(part) for part in _parts(first))


def _parts(word: str) -> list[str]:
    """Of 0,1,1 or a list, as Python ([0, 1, 1]) or NumPy ([0 1 1]) writes it."""
    if listed := _LIST.fullmatch(word):
        return re.split(r"\s*,\s*|\s+", listed[1].strip())
    return [part.strip() for part in word.split(",")]


def _apart(splits: dict[str, Rows], column: str) -> tuple[dict[str, Rows], list[str]]:
    """What cells of one column hold, such as 0,1,1, as columns of their own."""
    width = len(_parts(splits["train"].targets[column][0]))
    columns = [f"{column}_{number}" for number in range(width)]
    found = {}
    for split, rows in splits.items():
        words = _words(rows.targets[column])
        cells = [_parts(word) for word in words]
        for place, word, row in zip(rows.places, words, cells, strict=True):
            if len(row) != width:
                raise UserError(
                    f"{place}: {column} {word!r} has {len(row)} parts, expected {width} as in the "
                    "first row"
                )
        targets: dict[str, Column] = {
            name: [row[number] for row in cells] for number, name in enumerate(columns)
        }
        found[split] = replace(rows, targets=targets)
    return found, columns


def _classes(splits: dict[str, Rows], columns: list[str]) -> Meaning:
    if len(columns) > 1:
        raise UserError(
            f"{splits['train'].places[0]}: {len(columns)} columns of targets "
            f"({', '.join(columns[:3])} …); classes are one column"
        )
    words = {split: _words(rows.targets[columns[0]]) for split, rows in splits.items()}
    numbers = _NUMBER.fullmatch(words["train"][0]) is not None
    for split, found in words.items():
        for word in dict.fromkeys(found):
            if fault := _fault(word, numbers):
                place = splits[split].places[found.index(word)]
                raise UserError(f"{place}: label {word!r}{fault}")
    outputs = _numbered(splits, words) if numbers else tuple(sorted(set().union(*words.values())))
    of_word = {word: outputs.index(str(int(word)) if numbers else word)
               for found in words.values() for word in set(found)}  # fmt: skip
    targets = {
        split: np.array([of_word[word] for word in found], dtype=np.int64)
        for split, found in words.items()
    }
    _refuse_missing_classes(splits, targets, outputs)
    return Meaning("classes", outputs, targets, _class_notes(outputs, targets, numbers))


def _words(column: Column) -> list[str]:
    return list(map(str, column.tolist())) if isinstance(column, np.ndarray) else column


def _fault(word: str, numbers: bool) -> str:
    """What is wrong with a word as the name of a class, to read after it; '' if nothing."""
    if is_missing(word) and (numbers or not word):
        return ", expected a class"
    if numbers != (_NUMBER.fullmatch(word) is not None):
        other = "numbers" if numbers else "words"
        return f" among {other}; expected {other} only, or whole numbers 0…C−1"
    if numbers and not word.isdecimal():
        return ", expected whole numbers 0…C−1; --kind values reads other numbers"
    return ""


def _numbered(splits: dict[str, Rows], words: dict[str, list[str]]) -> tuple[str, ...]:
    """The names of classes 0…C−1; UserError where a number between is never used."""
    used = {int(word) for found in words.values() for word in set(found)}
    first_unused = next(number for number in range(len(used) + 1) if number not in used)
    for split, found in words.items():
        for word in dict.fromkeys(found):
            if int(word) > first_unused:
                raise UserError(
                    f"{splits[split].places[found.index(word)]}: label {word!r}, but none is "
                    f"{first_unused}; expected 0…C−1 without a gap"
                )
    return tuple(map(str, range(len(used))))


def _refuse_missing_classes(
    splits: dict[str, Rows], targets: dict[str, np.ndarray], outputs: tuple[str, ...]
) -> None:
    trained = np.bincount(targets["train"], minlength=len(outputs)) > 0
    for split, numbers in targets.items():
        unknown = np.flatnonzero(~trained[numbers])
        if unknown.size:
            row = int(unknown[0])
            raise UserError(
                f"{splits[split].places[row]}: class {outputs[numbers[row]]!r} is in {split} and "
                "not in train, where it is empty; expected sequences of every class in train"
            )
    if len(outputs) < 2:
        raise UserError(
            f"{splits['train'].places[0]}: every label is {''.join(outputs)!r}; expected "
            "two classes or more"
        )


def _class_notes(
    outputs: tuple[str, ...], targets: dict[str, np.ndarray], numbers: bool
) -> list[str]:
    notes = []
    if not numbers:
        named = [f"{number} {word}" for number, word in enumerate(outputs[:_MOST_NAMED])]
        more = ", …" if len(outputs) > _MOST_NAMED else ""
        notes.append(f"classes are numbered in the order of their words: {', '.join(named)}{more}")
    tested = np.bincount(targets["test"], minlength=len(outputs)) > 0
    if not tested.all():
        untested = [word for word, known in zip(outputs, tested, strict=True) if not known]
        notes.append(f"classes without a sequence in test: {', '.join(untested)}")
    return notes


def _number_notes(columns: list[str], targets: dict[str, np.ndarray]) -> list[str]:
    """That a column `target` may hold classes: nothing but 0…C−1, of a few."""
    if [name.lower() for name in columns] != ["target"]:
        return []
    used = np.unique(np.concatenate(list(targets.values())))
    if not 2 <= len(used) <= _MOST_CLASSES or not np.array_equal(used, np.arange(len(used))):
        return []
    return [
        f"column {columns[0]!r} holds only 0 to {len(used) - 1}, which are learnt as values; "
        "--kind classes learns them as classes"
    ]


def _zeros_and_ones(rows: Rows, columns: list[str]) -> np.ndarray:
    labels = _matrix(rows, columns)
    odd = np.flatnonzero(np.isfinite(labels) & (labels != 0) & (labels != 1))
    if odd.size:
        row, column = divmod(int(odd[0]), len(columns))
        cell = rows.targets[columns[column]][row]
        raise UserError(
            f"{rows.places[row]}: {columns[column]} {str(cell)!r}, expected 0 or 1, or nothing "
            "where it is not known"
        )
    return labels


def _matrix(rows: Rows, columns: list[str]) -> np.ndarray:
    """The columns as float32 (N, C); UserError for what is neither a finite number nor missing."""
    found = np.empty((len(rows.places), len(columns)), dtype=np.float32)
    for number, name in enumerate(columns):
        cells = rows.targets[name]
        if not isinstance(cells, np.ndarray):
            cells = np.array([_number(cell) for cell in cells])
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
            found[:, number] = cells
        if (odd := np.flatnonzero(np.isinf(found[:, number]))).size:
            row = int(odd[0])
            raise UserError(
                f"{rows.places[row]}: {name} {str(rows.targets[name][row])!r}, expected a finite "
                "number, or nothing where it is not known"
            )
    return found


def _number(word: str) -> float:
    """The value of a word: NaN where it is missing, infinite where it is no number."""
    if _NUMBER.fullmatch(word):
        return float(word)
    return np.nan if is_missing(word) else np.inf
