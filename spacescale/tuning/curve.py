"""Scores by share of the training labels: a table over fractions, and its figure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from spacescale.evals.figures import colour_of, new_figure, save, tidy
from spacescale.tasks.seeds import mean_sd
from spacescale.tuning.table import TaskTable

logger = logging.getLogger(__name__)


def curve_lines(tables: Sequence[TaskTable]) -> list[str]:
    """One task in Markdown, a column for each share of its training labels, ascending."""
    first = tables[0]
    shares = " | ".join(f"{table.fraction:g} % ({table.num['train']:,})" for table in tables)
    found = [
        f"### {first.task.name}: {first.metric_name} by share of the training labels",
        "",
        f"| | {shares} |",
        "|---|" + "---|" * len(tables),
    ]
    for of_method in zip(*(table.lines for table in tables), strict=True):
        scores = " | ".join(mean_sd(line.scores) for line in of_method)
        found.append(f"| {of_method[0].method} | {scores} |")
    return found


def draw_curve(path: Path, tables: Sequence[TaskTable]) -> bool:
    """Draw the mean over seeds against the share of the labels, and a deviation to either side.

    False where matplotlib is missing, which is said.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no figure: matplotlib is not installed (pip install 'spacescale[plot]')")
        return False
    shares = [table.fraction for table in tables]
    figure = new_figure(7.2, 3.6)
    axes = figure.subplots()
    for place, of_method in enumerate(zip(*(table.lines for table in tables), strict=True)):
        means = [mean(line.scores) for line in of_method]
        spread = [stdev(line.scores) if len(line.scores) > 1 else 0.0 for line in of_method]
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        colour, name = colour_of(place), of_method[0].method
        axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(shares, means, color=colour, marker="o", markersize=3.5, label=name)
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel(f"% of {tables[-1].task.name}'s training labels", fontsize=8)
    axes.set_ylabel(tables[0].metric_name, fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(axes)
    save(figure, path)
    return True
