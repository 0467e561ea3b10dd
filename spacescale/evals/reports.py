"""Accuracy as files others can read, and as a table for the terminal."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    path.write_text(text, encoding="utf-8")


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Return the cells in columns; those of `left` and the last, a note, begin at their left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    at_left = {*left, len(widths) - 1}
    lines = (
        "  ".join(
            text.ljust(width) if i in at_left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
