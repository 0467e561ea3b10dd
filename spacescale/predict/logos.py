"""Attributions drawn as letters: a base as high as what is attributed to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

COLOURS = {"A": "#3b8f3b", "C": "#2f5fb3", "G": "#d99a1c", "T": "#c0392b"}
BASES_A_LINE = 100  # longer regions go on below
LINE_INCHES = 1.6
_FONT = FontProperties(family="DejaVu Sans", weight="bold")


def draw_logo(path: Path, contributions: np.ndarray, start: int, title: str, label: str) -> None:
    """Draw contributions float32 (4, L), of the bases that stand there and 0 of others, as a PNG.

    start: 0-based position of the first, which the axis counts from. label: what they measure.
    """
    length = contributions.shape[1]
    lines = -(-length // BASES_A_LINE)
    figure = Figure(figsize=(12, 0.8 + LINE_INCHES * lines), layout="constrained")
    axes = figure.subplots(lines, 1, squeeze=False, sharey=True)[:, 0]
    for line, ax in enumerate(axes):
        first = line * BASES_A_LINE
        draw_letters(ax, contributions[:, first : first + BASES_A_LINE], start + first)
        ax.set_xlim(start + first, start + first + min(BASES_A_LINE, max(length, 20)))
        ax.set_ylabel(label, fontsize=8)
    axes[0].set_ylim(*limits(contributions))
    axes[0].set_title(title, fontsize=10, loc="left")
    axes[-1].set_xlabel("position, bp (0-based)", fontsize=8)
    figure.savefig(path, dpi=120)


def draw_letters(ax: Axes, contributions: np.ndarray, start: int) -> None:
    """Draw contributions, as of `draw_logo`, into axes; their limits are left to the caller."""
    for letter, of_base in zip(COLOURS, contributions, strict=True):
        glyph = TextPath((0, 0), letter, size=1, prop=_FONT)
        for at in np.flatnonzero(of_base).tolist():
            _draw(ax, glyph, letter, start + at, float(of_base[at]))
    ax.axhline(0, color="#555", linewidth=0.6)
    ax.ticklabel_format(axis="x", useOffset=False, style="plain")
    ax.spines[["top", "right"]].set_visible(False)


def limits(contributions: np.ndarray) -> tuple[float, float]:
    """Of an axis that holds 0 and all contributions."""
    lowest, highest = min(contributions.min(), 0.0), max(contributions.max(), 0.0)
    margin = 0.05 * (highest - lowest) or 1.0
    return lowest - margin, highest + margin


def _draw(ax: Axes, glyph: TextPath, letter: str, x: float, height: float) -> None:
    box = glyph.get_extents()
    fit = Affine2D().translate(-box.x0, -box.y0).scale(0.95 / box.width, height / box.height)
    ax.add_patch(
        PathPatch(
            glyph, transform=fit.translate(x, 0) + ax.transData, facecolor=COLOURS[letter],
            linewidth=0, alpha=1 if height > 0 else 0.6,
        )
    )  # fmt: skip
