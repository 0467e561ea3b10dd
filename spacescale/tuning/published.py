"""What was published of tasks: sizes, the paper's value and protocol, the best of its rivals.

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
_ALL = "all weights, sum over positions, live BatchNorm"
PROTOCOLS = {  # of SPACE on each suite, as its paper and its script state them
    "Nucleotide Transformer, revised": f"{_ALL}; as printed, rate 5e-5, batches of 8, 3 epochs, "
    "ten-fold cross-validation with early stopping, median of ten; its script has ten random "
    "tenths of train for validation (seeds 0 to 9), no weight decay, and tests the last state",
    "GUE": f"{_ALL}; as printed, 10,000 steps of 32, rate chosen for each task on validation; its "
    "script has seed 0 alone, weight decay 0.01 (covid: 14,000 steps of 16), and tests the best of "
    "every 200 steps by validation MCC",
    "Genomic Benchmarks": f"{_ALL}, sequences filled up to the longest of a split; as printed, "
    "rate and batch chosen for each task on validation, 3 epochs; its script has rate 5e-5, "
    "batches of 32, ten random tenths of train for validation (seeds 0 to 9), and tests the lowest "
    "validation loss",
}


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

    @property
    def protocol(self) -> str:
        """How SPACE's value came about."""
        return PROTOCOLS[self.suite]

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
