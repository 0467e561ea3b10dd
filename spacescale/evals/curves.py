"""The figure of a run's losses and accuracy over its steps, from metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spacescale.config import VALIDATION_LOSS, VALIDATION_SCORE
from spacescale.evals.figures import GREY, INK, colour_of, new_figure, save, tidy
from spacescale.metrics.writer import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING_LOSS, TRAINING_WINDOWS = "train/loss", "train/windows"
SMOOTHED_TO = 30  # stretches of a curve, of as many logged points each
COLUMNS = 3
Records = list[dict[str, Any]]


def loss_curves(path: Path, metrics_jsonl: Path) -> None:
    """Draw training and validation loss of each species, the sum, and validation's accuracy.

    Training losses are drawn as they were logged, and as means over several logged points, where
    there are enough of them. Each mean is over as many points as the title says.
    """
    records = read_metrics(metrics_jsonl)
    prefixes = (f"{TRAINING_LOSS}/", f"{VALIDATION_LOSS}/", f"{VALIDATION_SCORE}/")
    species = _species(records, prefixes)
    num_points = len(series(records, TRAINING_LOSS)[0])
    window = max(1, num_points // SMOOTHED_TO)
    num_rows = math.ceil((len(species) + 2) / COLUMNS)
    figure = new_figure(10.5, 0.4 + 2.7 * num_rows)
    panels = figure.subplots(num_rows, COLUMNS, squeeze=False).ravel()
    _draw_sum(panels[0], records, window)
    for place, name in enumerate(species):
        _draw_species(panels[1 + place], records, name, colour_of(place), window)
    _draw_accuracy(panels[1 + len(species)], records, species)
    for axes in panels[: len(species) + 2]:
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        tidy(axes)
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
        else:
            axes.text(0.5, 0.5, "not logged yet", transform=axes.transAxes, ha="center", color=GREY)
    for axes in panels[len(species) + 2 :]:
        axes.set_axis_off()
    over = f"; thick lines: means over {window} logged points" if window > 1 else ""
    figure.suptitle(f"Losses and accuracy{over}", fontsize=11, x=0.01, ha="left")
    save(figure, path)


def _species(records: Records, prefixes: Iterable[str]) -> list[str]:
    """Species of which something was logged, in the order of the log."""
    keys = [key for record in records for key in record]
    named = [key.removeprefix(p) for p in prefixes for key in keys if key.startswith(p)]
    return [name for name in dict.fromkeys(named) if "/" not in name]


def series(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values [points] of a name; null is left out."""
    points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _draw_sum(axes: Axes, records: Records, window: int) -> None:
    steps, values = series(records, TRAINING_LOSS)
    _draw_training(axes, steps, values, np.ones_like(values), INK, window)
    axes.set_title("all species: the sum that is trained on", loc="left", fontsize=9)


def _draw_species(axes: Axes, records: Records, name: str, colour: str, window: int) -> None:
    """Training's mean over windows, weighted by how many each point holds, and validation's."""
    own = [r for r in records if r.get(f"{TRAINING_LOSS}/{name}") is not None]
    steps, values = series(own, f"{TRAINING_LOSS}/{name}")
    weights = np.array([r.get(f"{TRAINING_WINDOWS}/{name}", 1) for r in own], dtype=float)
    _draw_training(axes, steps, values, weights, colour, window)
    steps, values = series(records, f"{VALIDATION_LOSS}/{name}")
    if len(steps):
        axes.plot(
            steps, values, color=INK, linewidth=1.2, linestyle="--", marker="o", markersize=3,
            label="validation",
        )  # fmt: skip
    axes.set_title(name, loc="left", fontsize=9)


def _draw_training(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    colour: str,
    window: int,
) -> None:
    if not len(steps):
        return
    if 1 < window <= len(steps):
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
        steps, values = steps[window - 1 :], running_mean(values, weights, window)
    axes.plot(steps, values, color=colour, linewidth=1.5, label="training")


def running_mean(values: np.ndarray, weights: np.ndarray, window: int) -> np.ndarray:
    """Weighted mean of each value and the `window` − 1 before it, [points − window + 1]."""
    ones = np.ones(window)
    return np.convolve(values * weights, ones, "valid") / np.convolve(weights, ones, "valid")


def _draw_accuracy(axes: Axes, records: Records, species: list[str]) -> None:
    names = {"mean of species": (VALIDATION_SCORE, INK)} if len(species) > 1 else {}
    for place, name in enumerate(species):
        names[name] = (f"{VALIDATION_SCORE}/{name}", colour_of(place))
    for label, (key, colour) in names.items():
        steps, values = series(records, key)
        if len(steps):
            axes.plot(steps, values, color=colour, marker="o", markersize=3, label=label)
    axes.set_title("validation: Pearson r, log1p scale", loc="left", fontsize=9)
