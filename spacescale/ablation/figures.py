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
from spacescale.ablation.results import ArmResult
from spacescale.evals.experts import draw_information, expert_use, information
from spacescale.evals.figures import GREY, colour_of, new_figure, save, tidy
from spacescale.evals.results import ALL
from spacescale.metrics.writer import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = "#e6e6e6"
COLUMNS, PANELS_ABREAST = 3, 5  # of tracks, of species
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
    curves = {a.name: [information(read_metrics(r.folder / METRICS_FILE)) for r in a.runs]
              for a in arms}  # fmt: skip
    draw_information(folder / "mutual_information.png", curves)


def differences(path: Path, comparison: Comparison, first: str) -> None:
    """Draw each arm's difference to the first and its interval: a panel per species, rows assays.

    The last panel, of several species, is their mean.
    """
    panels = list(dict.fromkeys(species for species, _ in comparison.scores))
    rows = sorted({assay for _, assay in comparison.scores}, key=lambda a: (a == ALL, a))
    arms = list(dict.fromkeys(d.arm for d in comparison.differences))
    columns = min(PANELS_ABREAST, len(panels))
    abreast = -(-len(panels) // columns)
    height = 0.9 + (0.18 + 0.12 * len(arms)) * len(rows)
    figure = new_figure(2.2 + 2.4 * columns, 0.4 + height * abreast)
    grid = figure.subplots(abreast, columns, sharex=True, sharey=True, squeeze=False)
    axes_of: dict[str, Axes] = dict(zip(panels, grid.ravel(), strict=False))
    for d in comparison.differences:
        axes, place = axes_of[d.row[0]], arms.index(d.arm)
        y = rows.index(d.row[1]) + 0.7 * ((place + 0.5) / len(arms) - 0.5)
        axes.hlines(y, d.interval.low, d.interval.high, color=colour_of(place), linewidth=1.4)
        axes.scatter([d.value], [y], s=16, color=colour_of(place), zorder=3)
    for species, axes in axes_of.items():
        axes.axvline(0, color=GREY, linewidth=0.8)
        for edge in range(1, len(rows)):
            axes.axhline(edge - 0.5, color=LINE, linewidth=0.6)
        axes.set_title("over all" if species == ALL else species, loc="left", fontsize=9)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        tidy(axes)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(f"Pearson r (log1p) less that of {first}", fontsize=9)
    figure.suptitle("Differences, 95 % intervals over windows and seeds", fontsize=11, x=0.01,
                    ha="left")  # fmt: skip
    axes = next(iter(axes_of.values()))
    handles = [axes.scatter([], [], s=16, color=colour_of(i), label=a) for i, a in enumerate(arms)]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def tracks(path: Path, pearson: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draw a dot per track: the first arm against each other. pearson: arm → species → (T,)."""
    (first, of_first), *others = pearson.items()
    columns = min(COLUMNS, len(others))
    num_rows = -(-len(others) // columns)
    figure = new_figure(2.0 + 3.0 * columns, 0.4 + 3.2 * num_rows)
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
