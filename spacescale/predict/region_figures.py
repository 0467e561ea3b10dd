"""Predicted tracks drawn over the regions that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.errors import UserError
from spacescale.predict.places import Place
from spacescale.predict.regions import Stretch

MOST_COLUMNS = 2_000  # of a figure; longer regions are drawn by means of as many bins as it takes
TRACKS_A_PAGE = 16
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


class RegionFigure:
    """Collects what is predicted of a region, in little memory, and draws it."""

    def __init__(self, place: Place, bin_size: int, tracks: int):
        self.place, self.bin_size = place, bin_size
        self.first = place.start // bin_size
        self.bins = -(-place.end // bin_size) - self.first
        self.columns = min(self.bins, MOST_COLUMNS)
        self.sums = np.zeros((self.columns, tracks))
        self.counts = np.zeros((self.columns, 1))

    def add(self, stretch: Stretch) -> None:
        """Take the bins of a stretch that lie in the region."""
        if stretch.chrom != self.place.chrom:
            return
        bins = stretch.start // self.bin_size - self.first + np.arange(len(stretch.values))
        inside = (bins >= 0) & (bins < self.bins)
        columns = bins[inside] * self.columns // self.bins
        np.add.at(self.sums, columns, stretch.values[inside])
        np.add.at(self.counts, columns, 1)

    @property
    def edges(self) -> np.ndarray:
        """Where columns begin, and the last one ends: bp, (columns + 1,)."""
        # Column k begins with the first bin b for which b · columns // bins is k.
        bins = -(-np.arange(self.columns + 1) * self.bins // self.columns)
        return (self.first + bins) * self.bin_size

    def draw(
        self, folder: Path, names: Sequence[str], assays: Sequence[str], unit: str
    ) -> list[Path]:
        """Write CONTIG_START_END.png, a panel for each track; further pages are .page2.png etc."""
        values = self.sums / self.counts
        stem = f"{self.place.chrom}_{self.place.start}_{self.place.end}".replace("/", "_")
        kinds = list(dict.fromkeys(assays))
        colours = [COLOURS[kinds.index(assay) % len(COLOURS)] for assay in assays]
        paths = []
        for page, first in enumerate(range(0, len(names), TRACKS_A_PAGE), 1):
            here = slice(first, first + TRACKS_A_PAGE)
            path = folder / (f"{stem}.png" if page == 1 else f"{stem}.page{page}.png")
            figure = self._page(values[:, here], names[here], colours[here], unit)
            figure.savefig(path)
            paths.append(path)
        return paths

    def _page(
        self, values: np.ndarray, names: Sequence[str], colours: Sequence[str], unit: str
    ) -> Any:
        from matplotlib.figure import Figure

        height = 0.9 + 0.62 * len(names)
        figure = Figure(figsize=(10, height), layout="constrained", dpi=150)
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        edges = self.edges / 1000
        for axes, track, name, colour in zip(panels, values.T, names, colours, strict=True):
            axes.stairs(track, edges, fill=True, color=colour)
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
            axes.axhline(0, color="#8c8c8c", linewidth=0.6)
            axes.margins(x=0)
            axes.locator_params(axis="y", nbins=2)
            axes.tick_params(labelsize=7, color="#8c8c8c")
            axes.spines[["top", "right"]].set_visible(False)
        panels[-1].set_xlabel(f"{self.place.chrom}, position (kb)", fontsize=9)
        panels[-1].ticklabel_format(axis="x", useOffset=False, style="plain")
        figure.align_ylabels()
        figure.suptitle(f"{self.place}, predicted, in {unit}", fontsize=10, x=0.01, ha="left")
        return figure


def require_matplotlib() -> None:
    """Raise UserError where figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "figures are drawn by matplotlib: pip install 'spacescale[plot]', or take --no-figure"
        ) from None
