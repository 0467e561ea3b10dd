"""Which test sequences pretraining has seen: read from a table of `spacescale contamination`."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spacescale.checkpoint.identity import digest_of_weights
from spacescale.contamination.sequences import digest_of
from spacescale.contamination.verdicts import DEFAULT_LIMITS
from spacescale.errors import UserError
from spacescale.genome.text_files import text_lines
from spacescale.model.exports import local_folder
from spacescale.tasks.read_task import task_name
from spacescale.tasks.task import Task

COLUMNS = ("task", "split", "sequence", "verdict")
DIGESTS = ("sequence_digest", "weights", "weights_digest")  # not in tables of earlier versions
GAPS = ("not_searched", "not_known")  # the same
LIMITS = ("limits",)  # the same
NOT_TOLD = "whether all that it read was searched, as the report is of an earlier version"
SEEN, PART, UNKNOWN, VALIDATION = ("same", "similar"), "part", "too short", "validation"
NEITHER = {
    PART: "alike in part, or less alike",
    UNKNOWN: "too short to tell",
    VALIDATION: "in windows that chose the checkpoint",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """Of the test sequences of a task: their verdicts, and the rows of those not seen, int64.

    Of those of which a part was seen, those too short to tell, and those that validation has read,
    neither is said. weights: of which the report is, '' where it does not tell. not_searched:
    species whose windows pretraining read and the report did not search; where there are any, of no
    sequence it is known that it was not seen, and `unseen` is empty. not_known: what else the
    report leaves open, in words. limits: from where on a sequence counts as seen, '' of the default
    ones.
    """

    verdicts: Counter[str]
    unseen: np.ndarray
    weights: str = ""
    not_searched: str = ""
    not_known: str = ""
    limits: str = ""

    @property
    def share(self) -> float:
        """Of all test sequences that were seen, or their like, as far as was searched."""
        return sum(self.verdicts[verdict] for verdict in SEEN) / sum(self.verdicts.values())

    def in_words(self) -> str:
        """What a reader of a score should know."""
        same, similar = (self.verdicts[verdict] for verdict in SEEN)
        text = (
            f"pretraining{f' of {self.weights}' if self.weights else ''} has seen "
            f"{'at least ' if self.not_searched else ''}"
            f"{same + similar:,} of {sum(self.verdicts.values()):,} test "
            f"sequences ({self.share:.1%}): {same:,} the same, {similar:,} similar"
        )
        if self.limits:
            text += f" (the report counts from an {self.limits} on)"
        if self.not_searched:
            text += (
                f"; windows of {self.not_searched} not searched, so that the others may have been "
                "seen, too, and none counts as not seen"
            )
        if self.not_known:
            text += f"; not known: {self.not_known}"
        for verdict, what in NEITHER.items():
            if count := self.verdicts[verdict]:
                text += f"; {count:,} are {what}, and count as neither"
        return text


class Told(NamedTuple):
    """A row of a report; digest: of its sequence, None where the report has none."""

    verdict: str
    digest: str | None


@dataclass(frozen=True)
class Verdicts:
    """Of test splits: (task, name of a sequence) → in file order.

    weights: those that the report is of, as it calls them; '' where it does not. not_searched,
    not_known, limits: as of `Seen`.
    """

    rows: dict[tuple[str, str], list[Told]]
    weights: str = ""
    not_searched: str = ""
    not_known: str = ""
    limits: str = ""


def read_seen(path: Path, weights: Path | None = None) -> Verdicts:
    """Read the verdicts of test splits.

    weights: those that are to be scored. Raises UserError for another table, and for a report of
    other weights where both are known; warns where it does not tell of which sequences it is, or
    what it did not search.
    """
    rows = csv.reader((line for _, line in text_lines(path, "a report of contamination")),
                      delimiter="\t")  # fmt: skip
    header = next(rows, [])
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{path}: no column {missing[0]!r}; expected a .tsv of "
                        "`spacescale contamination --out`")  # fmt: skip
    digests, gaps, limits = (_places(header, names) for names in (DIGESTS, GAPS, LIMITS))
    if not digests:
        logger.warning("%s: tells neither its sequences nor its weights, so that only names of "
                       "sequences are compared; make it anew", path)  # fmt: skip
    if not gaps:
        logger.warning("%s: does not tell what was not searched of the data that pretraining read; "
                       "make it anew", path)  # fmt: skip
    task, split, sequence, verdict = _places(header, COLUMNS)
    found: dict[tuple[str, str], list[Told]] = {}
    named: dict[tuple[str, str], None] = {}  # weights and their digests
    left_open: dict[tuple[str, str], None] = {}  # not searched, and not known
    counted: dict[str, None] = {}  # limits other than the default ones
    for row in rows:
        if row[split] == "test":
            digest, name, of_weights = (row[at] for at in digests) if digests else (None, "", "")
            found.setdefault((row[task], row[sequence]), []).append(Told(row[verdict], digest))
            named[name, of_weights] = None
            not_searched, not_known = (row[at] for at in gaps) if gaps else ("", NOT_TOLD)
            left_open[not_searched, not_known] = None
            counted.update({row[at]: None for at in limits if row[at] != DEFAULT_LIMITS.in_words()})
    if weights is not None:
        _require_of(path, list(named), weights)
    not_searched, not_known = zip(*left_open, strict=True) if left_open else ((), ())
    return Verdicts(
        found,
        ", ".join(name for name, _ in named),
        ", ".join(filter(None, not_searched)),
        "; ".join(filter(None, not_known)),
        ", ".join(counted),
    )


def _places(header: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where these columns are; [] where one is missing."""
    return [header.index(name) for name in names] if set(names) <= set(header) else []


def _require_of(path: Path, named: Sequence[tuple[str, str]], weights: Path) -> None:
    ours = digest_of_weights(local_folder(weights))
    for name, digest in named:
        if digest and ours and digest != ours:
            raise UserError(
                f"{path}: of the weights {name}, whose training or step is not that of {weights}; "
                f"expected a report of `spacescale contamination {weights}`"
            )


def seen_of(task: Task, verdicts: Verdicts, source: Path) -> Seen:
    """Of one task; test sequences of one name stand in the report as they do in the task.

    Raises UserError where the report does not hold each test sequence once, or another of its name.
    """
    test = task.splits["test"]
    names, anew = test.names, _how_to_make(task)
    for name, count in Counter(names).items():
        if (found := len(verdicts.rows.get((task.name, name), []))) != count:
            raise UserError(f"{source}: {found} of {count} rows on {task.name}'s test sequence "
                            f"{name}; {anew}")  # fmt: skip
    in_order = {name: iter(verdicts.rows[task.name, name]) for name in set(names)}
    known = []
    for name, codes in zip(names, test.codes, strict=True):
        told = next(in_order[name])
        if told.digest is not None and told.digest != digest_of(codes):
            raise UserError(f"{source}: {task.name}'s test sequence {name} was another one "
                            f"({told.digest}, expected {digest_of(codes)}); {anew}")  # fmt: skip
        known.append(told.verdict)
    told_apart = (*SEEN, *NEITHER)
    unseen = [row for row, verdict in enumerate(known) if verdict not in told_apart]
    return Seen(
        Counter(known),
        np.array([] if verdicts.not_searched else unseen, dtype=np.int64),
        verdicts.weights,
        verdicts.not_searched,
        verdicts.not_known,
        verdicts.limits,
    )


def _how_to_make(task: Task) -> str:
    if task.name == task_name(task.path):
        return f"make it anew with --sequences {task.path}"
    return "make it anew with --sequences and the folder of the suite, as tasks there share names"
