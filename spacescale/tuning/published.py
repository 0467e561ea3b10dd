"""What was published of tasks: their sizes, the paper's value, the best of its rivals.

Of SPACE (arXiv 2506.01833) on the revised Nucleotide Transformer tasks, GUE and Genomic Benchmarks.
Those values come from other weights, settings and, in part, other protocols: a reference, no rival.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from spacescale.tasks.scores import METRICS
from spacescale.tasks.task import Task

VALUES = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Published:
    """One task; train and test: the suite's sequences, space and best_other: values of `metric`.

    None where it is not known.
    """

    suite: str
    task: str
    train: int | None
    test: int | None
    metric: str
    space: float | None
    best_other: float
    best_other_model: str

    def in_words(self, task: Task) -> str:
        """What to hold a table beside, and whether it is of the same sequences."""
        value = "not given" if self.space is None else f"{self.space:.3f}"
        text = (
            f"published ({self.suite}), {self.metric}: SPACE {value}, best of its rivals "
            f"{self.best_other:.3f} ({self.best_other_model})"
        )
        for split, number in (("train", self.train), ("test", self.test)):
            found = len(task.splits[split])
            cut = split == "train" and self.suite != "GUE"  # validation was cut off it
            found += len(task.splits["valid"]) if cut else 0
            if number is not None and number != found:
                text += f"; the suite has {number:,} {split} sequences, here are {found:,}"
        return text


def published(task: Task) -> Published | None:
    """What was published of a task of this name, or folder and name, and kind of layout."""
    suites = {"tables": "GUE", "fasta": "Nucleotide Transformer, revised"}
    suite = suites.get(task.layout, "Genomic Benchmarks")
    for values in json.loads(VALUES.read_text(encoding="utf-8")):
        names = (task.name, f"{task.path.parent.name}/{task.name}")
        if values["suite"] == suite and values["task"] in names:
            return Published(**values)
    return None


def metric_of_suite(task: Task) -> str | None:
    """What its suite judges it by, if that is another metric than tasks of its kind have here."""
    known = published(task)
    others = METRICS[task.kind][1:]
    return known.metric if known and known.metric in others else None
