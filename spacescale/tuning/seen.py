"""Which test sequences pretraining has seen: read from a table of `spacescale contamination`."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.text_files import text_lines
from spacescale.tasks.task import Task

COLUMNS = ("task", "split", "sequence", "verdict")
SEEN = ("same", "similar")


@dataclass(frozen=True)
class Seen:
    """Of the test sequences of a task: their verdicts, and the rows of those not seen, int64."""

    verdicts: Counter[str]
    unseen: np.ndarray

    def in_words(self) -> str:
        """What a reader of a score should know."""
        total = sum(self.verdicts.values())
        same, similar = (self.verdicts[verdict] for verdict in SEEN)
        return (
            f"pretraining has seen {same + similar:,} of {total:,} test sequences "
            f"({(same + similar) / total:.1%}): {same:,} the same, {similar:,} similar"
        )


def read_seen(path: Path) -> dict[tuple[str, str], str]:
    """(task, sequence) of test splits → verdict. Raises UserError for another table."""
    rows = csv.reader((line for _, line in text_lines(path, "a report of contamination")),
                      delimiter="\t")  # fmt: skip
    header = next(rows, [])
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{path}: no column {missing[0]!r}; expected a .tsv of "
                        "`spacescale contamination --out`")  # fmt: skip
    task, split, sequence, verdict = (header.index(name) for name in COLUMNS)
    found: dict[tuple[str, str], str] = {}
    for row in rows:
        key = (row[task], row[sequence])
        if row[split] != "test":
            continue
        if key in found:
            raise UserError(f"{path}: two test sequences of {key[0]} are called {key[1]}, and "
                            "cannot be told apart")  # fmt: skip
        found[key] = row[verdict]
    return found


def seen_of(task: Task, verdicts: dict[tuple[str, str], str], source: Path) -> Seen:
    """Of one task. Raises UserError for a test sequence that the report does not know."""
    names = task.splits["test"].names
    found = [verdicts.get((task.name, name)) for name in names]
    known = [verdict for verdict in found if verdict is not None]
    if len(known) < len(found):
        missing = names[found.index(None)]
        raise UserError(f"{source}: nothing of {task.name}'s test sequence {missing}; make it anew "
                        f"with --sequences {task.path}")  # fmt: skip
    unseen = [row for row, verdict in enumerate(known) if verdict not in SEEN]
    return Seen(Counter(known), np.array(unseen, dtype=np.int64))
