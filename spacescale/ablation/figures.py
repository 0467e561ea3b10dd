"""Figures of an ablation: differences, tracks of two arms, expert use, information over training.

The last three are the paper's Fig. 2 at the size of the runs. Shapes: T tracks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spacescale.ablation.compare import ArmScores, Comparison, SpeciesTracks
from spacescale.ablation.results import ArmResult, title_of
from spacescale.evals.curves import SMOOTHED_TO, running_mean, series
from spacescale.evals.figures import GREY, INK, colour_of, expert_use, new_figure, save, tidy
from spacescale.metrics.writer import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = "#e6e6e6"
COLUMNS = 3
logger = logging.getLogger(__name__)


def draw(
    folder: Path,
    arms: Sequence[ArmResult],
    scores: Sequence[ArmScores],
    species: Mapping[str, SpeciesTracks],
    comparison: Comparison,
) -> None:
    """Draw all figures that there is something for; a missing matplotlib is named and skipped."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no figures: matplotlib is not installed (pip install 'spacescale[plot]')")
        return
    if comparison.differences:
        differences(folder / "differences.png", comparison, arms[0].name)
        pearson = {arm.name: {n: arm.pearson(n).mean(0).numpy() for n in species} for arm in scores}
        tracks(folder / "tracks.png", pearson)
    for arm in arms:
        _draw_experts(folder / f"experts_{arm.name}.png", arm)
    if curves := {arm.name: found for arm in arms if (found := information(arm))}:
        draw_information(folder / "mutual_information.png", curves)


def differences(path: Path, comparison: Comparison, first: str) -> None:
    """Draw each arm's difference to the first and its interval, rows as in the table."""
    rows = list(comparison.scores)
    arms = list(dict.fromkeys(d.arm for d in comparison.differences))
    figure = new_figure(7.5, 1.2 + (0.2 + 0.13 * len(arms)) * len(rows))
    axes = figure.subplots()
    for d in comparison.differences:
        place = arms.index(d.arm)
        y = rows.index(d.row) + 0.7 * ((place + 0.5) / len(arms) - 0.5)
        axes.hlines(y, d.interval.low, d.interval.high, color=colour_of(place), linewidth=1.4)
        axes.scatter([d.value], [y], s=16, color=colour_of(place), zorder=3)
    axes.axvline(0, color=GREY, linewidth=0.8)
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color=LINE, linewidth=0.6)
    axes.set_yticks(range(len(rows)), [title_of(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"Pearson r (log1p) less that of {first}", fontsize=9)
    axes.set_title("Differences, 95 % intervals over windows and seeds", loc="left", fontsize=11)
    tidy(axes)
    handles = [axes.scatter([], [], s=16, color=colour_of(i), label=a) for i, a in enumerate(arms)]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def tracks(path: Path, pearson: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draw a dot per track: the first arm against each other. pearson: arm → species → (T,)."""
    (first, of_first), *others = pearson.items()
    columns = min(COLUMNS, len(others))
    num_rows = -(-len(others) // columns)
    figure = new_figure(0.6 + 3.1 * columns, 0.7 + 3.1 * num_rows)
    panels = figure.subplots(num_rows, columns, squeeze=False).ravel()
    both = np.concatenate([part for of in pearson.values() for part in of.values()])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    edge = 0.05 * (high - low) + 0.01
    for axes, (arm, of_arm) in zip(panels, others, strict=False):
        for place, (species, x) in enumerate(of_arm.items()):
            axes.scatter(
                x, of_first[species], s=18, color=colour_of(place), alpha=0.75, linewidths=0,
                label=species,
            )  # fmt: skip
        axes.axline((low, low), slope=1, color=GREY, linewidth=0.8, zorder=0)
        axes.set_xlim(low - edge, high + edge)
        axes.set_ylim(low - edge, high + edge)
        axes.set_aspect("equal")
        axes.set_xlabel(arm, fontsize=9)
        axes.set_ylabel(first, fontsize=9)
        above = sum(int((of_first[name] > x).sum()) for name, x in of_arm.items())
        total = sum(int(np.isfinite(of_first[name] - x).sum()) for name, x in of_arm.items())
        axes.set_title(f"{first} above on {above} of {total}", loc="left", fontsize=9)
        tidy(axes)
    for axes in panels[len(others) :]:
        axes.set_axis_off()
    figure.suptitle("Pearson r (log1p) track by track, mean over seeds", fontsize=11, x=0.01,
                    ha="left")  # fmt: skip
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def _draw_experts(path: Path, arm: ArmResult) -> None:
    """The use of experts in the first run: another seed's have another order."""
    encoder, decoder = {}, {}
    for species, of in arm.evaluations[0]["species"].items():
        if shares := of["experts"].get("encoder"):
            encoder[species] = np.array(shares, dtype=float)
        for assay, shares in of["experts"].get("decoder", {}).items():
            decoder[species, assay] = np.array(shares, dtype=float)
    if encoder or decoder:
        expert_use(path, encoder, decoder)


Curves = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # part → steps and nats, of each run


def information(arm: ArmResult) -> Curves:
    """Mutual information of rows and experts over training, nats; {} where none was logged.

    "encoder": of species and experts, the mean over blocks; "decoder": of species × profile type.
    """
    config, found = arm.costed.config, {}
    if not config.loss.mi_weight:  # the log holds weighted losses, of which nothing is left
        return {}
    for part, layers in (("encoder", config.model.depth), ("decoder", 1)):
        for run in arm.runs:
            records = read_metrics(run.folder / METRICS_FILE)
            steps, losses = series(records, f"train/{part}_mi")
            if len(steps):
                nats = -losses / (config.loss.mi_weight * layers)
                found.setdefault(part, []).append((steps, nats))
    return found


def draw_information(path: Path, curves: Mapping[str, Curves]) -> None:
    """Draw running means of each run's curve, a colour for each arm."""
    parts = [p for p in ("encoder", "decoder") if any(p in of for of in curves.values())]
    titles = {"encoder": "species and encoder experts, mean over blocks",
              "decoder": "species × profile type and decoder experts"}  # fmt: skip
    figure = new_figure(0.8 + 4.6 * len(parts), 3.2)
    panels: list[Axes] = list(figure.subplots(1, len(parts), squeeze=False)[0])
    for axes, part in zip(panels, parts, strict=True):
        for place, (arm, of) in enumerate(curves.items()):
            for number, (steps, nats) in enumerate(of.get(part, [])):
                window = max(1, len(steps) // SMOOTHED_TO)
                smooth = running_mean(nats, np.ones_like(nats), window)
                label = arm if number == 0 else None
                colour = colour_of(place)
                axes.plot(steps[window - 1 :], smooth, color=colour, linewidth=1.2, label=label)
        axes.set_title(titles[part], loc="left", fontsize=9)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, frameon=False)
        tidy(axes)
    panels[0].set_ylabel("mutual information (nats)", fontsize=8, color=INK)
    figure.suptitle("Mutual information over training, a line for each seed", fontsize=11, x=0.01,
                    ha="left")  # fmt: skip
    save(figure, path)
