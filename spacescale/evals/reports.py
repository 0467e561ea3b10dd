"""Accuracy as files others can read."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacescale.files import write_text
from spacescale.metrics.writer import json_safe


@dataclass(frozen=True)
class AccRow:
    """One track of acc.txt, the table of the field; NaN for a constant track."""

    index: int
    pearsonr: float
    r2: float
    identifier: str
    description: str


def write_acc_table(path: Path, rows: Iterable[AccRow]) -> None:
    """Write acc.txt, tab separated with a header, five decimals."""
    lines = ["index\tpearsonr\tr2\tidentifier\tdescription"]
    lines += [
        f"{row.index}\t{row.pearsonr:.5f}\t{row.r2:.5f}\t{row.identifier}\t{row.description}"
        for row in rows
    ]
    _write(path, "\n".join([*lines, ""]))


def write_metrics_json(path: Path, payload: Any) -> None:
    """Write plain dicts, lists, texts and numbers as JSON; NaN and infinities become null."""
    _write(path, json.dumps(json_safe(payload), indent=2, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
