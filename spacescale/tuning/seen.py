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
SEEN, UNKNOWN = ("same", "similar"), "too short"


@dataclass(frozen=True)
class Seen:
    """Of the test sequences of a task: their verdicts, and the rows of those not seen, int64.

    Of those too short to tell neither is said.
    """

    verdicts: Counter[str]
    unseen: np.ndarray

    @property
    def share(self) -> float:
        """Of all test sequences that were seen, or their like."""
        return sum(self.verdicts[verdict] for verdict in SEEN) / sum(self.verdicts.values())

    def in_words(self) -> str:
        """What a reader of a score should know."""
        same, similar = (self.verdicts[verdict] for verdict in SEEN)
        text = (
            f"pretraining has seen {same + similar:,} of {sum(self.verdicts.values()):,} test "
            f"sequences ({self.share:.1%}): {same:,} the same, {similar:,} similar"
        )
        if unknown := self.verdicts[UNKNOWN]:
            text += f"; {unknown:,} are too short to tell, and count as neither"
        return text


Verdicts = dict[tuple[str, str], list[str]]  # (task, name of a test sequence) → in file order


def read_seen(path: Path) -> Verdicts:
    """Read the verdicts of test splits. Raises UserError for another table."""
    rows = csv.reader((line for _, line in text_lines(path, "a report of contamination")),
                      delimiter="\t")  # fmt: skip
    header = next(rows, [])
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{path}: no column {missing[0]!r}; expected a .tsv of "
                        "`spacescale contamination --out`")  # fmt: skip
    task, split, sequence, verdict = (header.index(name) for name in COLUMNS)
    found: Verdicts = {}
    for row in rows:
        if row[split] == "test":
            found.setdefault((row[task], row[sequence]), []).append(row[verdict])
    return found


def seen_of(task: Task, verdicts: Verdicts, source: Path) -> Seen:
    """Of one task; test sequences of one name stand in the report as they do in the task.

    Raises UserError where the report does not hold each test sequence once.
    """
    names = task.splits["test"].names
    for name, count in Counter(names).items():
        if (found := len(verdicts.get((task.name, name), []))) != count:
            raise UserError(f"{source}: {found} of {count} rows on {task.name}'s test sequence "
                            f"{name}; make it anew with --sequences {task.path}")  # fmt: skip
    in_order = {name: iter(verdicts[task.name, name]) for name in set(names)}
    known = [next(in_order[name]) for name in names]
    unseen = [row for row, verdict in enumerate(known) if verdict not in (*SEEN, UNKNOWN)]
    return Seen(Counter(known), np.array(unseen, dtype=np.int64))
