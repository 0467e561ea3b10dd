"""Accuracy as files others can read, and as a table for the terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class SummaryRow:
    """Mean accuracy over the tracks of one assay of one species."""

    species: str
    assay: str
    tracks: int
    pearson_log1p: float
    pearson_raw: float
    baseline_log1p: float  # of the mean profile, which knows nothing of the sequence
    left_out: Mapping[str, int] = field(default_factory=dict)  # of pearson_log1p: reason → tracks


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


def summary_table(rows: Sequence[SummaryRow]) -> str:
    """Return aligned columns: species, assay, tracks, Pearson on both scales, baseline, note."""
    header = ("species", "assay", "tracks", "Pearson log1p", "Pearson raw", "mean profile", "")
    cells = [header] + [
        (
            row.species,
            row.assay,
            str(row.tracks),
            f"{row.pearson_log1p:.3f}",
            f"{row.pearson_raw:.3f}",
            f"{row.baseline_log1p:.3f}",
            _left_out(row.left_out),
        )
        for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(_line(row, widths) for row in cells)


def _left_out(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} left out: {counts}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    texts = [
        text.ljust(width) if column in (0, 1, 6) else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(texts).rstrip()
