"""Figures for people: coverage, predicted tracks and accuracy, as PNG files.

matplotlib is imported when a figure is drawn; `Figure` without pyplot needs no display and
keeps no global state. Colours are those of Okabe and Ito, told apart by colour-blind readers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spacescale.verify.statistics import TargetStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, OBSERVED = "#222222", "#8c8c8c", "#b9b9b9"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
DPI = 150
UNMEASURED: dict[str, Any] = {
    "facecolor": "none", "edgecolor": OBSERVED, "hatch": "////", "linewidth": 0, "zorder": 0,
}  # fmt: skip
_MOST_NAMED_TRACKS = 40
ROWS_A_PAGE, MOST_PAGES = 16, 2  # of tracks over a region


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def tidy(axes: "Axes") -> None:
    """Give axes the look of all figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY)


def colour_of(position: int) -> str:
    """The colour of the species, split or track at this place of its list."""
    return COLOURS[position % len(COLOURS)]


def some_tracks(assays: Sequence[str]) -> list[int]:
    """Which tracks `tracks_over_region` can show: all, or as many of each assay, in their order.

    assays: of all tracks.
    """
    turn: dict[str, int] = {}
    turns = []
    for track, assay in enumerate(assays):
        turn[assay] = turn.get(assay, -1) + 1
        turns.append((turn[assay], track))
    return sorted(track for _, track in sorted(turns)[: ROWS_A_PAGE * MOST_PAGES])


def tracks_over_region(
    path: Path,
    chrom: str,
    start: int,
    bin_size: int,
    predicted: np.ndarray,
    observed: np.ndarray,
    names: Sequence[str],
    title: str,
) -> None:
    """Draw predicted over observed coverage, both [bins, T], one panel per track.

    start: bp of the first bin, 0-based; bin_size in bp; names: of the T tracks. Observed NaN, not
    measured, is hatched. After ROWS_A_PAGE tracks follow further pages, NAME.page2.png and so on.
    """
    for old in path.parent.glob(f"{path.stem}.page*.png"):
        old.unlink()
    pages = range(0, len(names), ROWS_A_PAGE)
    for number, first in enumerate(pages, 1):
        here = slice(first, first + ROWS_A_PAGE)
        figure = _tracks_page(
            (chrom, start, bin_size), predicted[:, here], observed[:, here], names[here]
        )
        page = f" ({number} of {len(pages)})" if len(pages) > 1 else ""
        figure.suptitle(title + page, fontsize=11, x=0.01, ha="left")
        save(figure, path if number == 1 else path.with_suffix(f".page{number}.png"))


def _tracks_page(
    place: tuple[str, int, int], predicted: np.ndarray, observed: np.ndarray, names: Sequence[str]
) -> "Figure":
    """One page of `tracks_over_region`; place: contig, start and bin size."""
    from matplotlib.patches import Patch

    chrom, start, bin_size = place
    num_bins, num_tracks = predicted.shape
    figure = new_figure(9.0, 0.9 + 0.75 * num_tracks)
    panels = figure.subplots(num_tracks, 1, sharex=True, squeeze=False)[:, 0]
    edges = (start + bin_size * np.arange(num_bins + 1)) / 1000
    for track, (axes, name) in enumerate(zip(panels, names, strict=True)):
        axes.stairs(observed[:, track], edges, fill=True, color=OBSERVED, label="observed coverage")
        axes.stairs(
            predicted[:, track], edges, color=COLOURS[0], linewidth=1.2, label="predicted coverage"
        )
        for first, last in _runs(np.isnan(observed[:, track])):
            axes.axvspan(edges[first], edges[last], **UNMEASURED)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, color=INK)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=2)
        axes.margins(x=0)
        tidy(axes)
    panels[-1].set_xlabel(f"{chrom}, position (kb)", fontsize=9)
    panels[-1].ticklabel_format(axis="x", useOffset=False, style="plain")
    figure.align_ylabels()
    handles, labels = panels[0].get_legend_handles_labels()
    if np.isnan(observed).any():
        handles.append(Patch(**UNMEASURED))
        labels.append("not measured")
    figure.legend(handles, labels, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    return figure


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Half-open stretches of a bool array [n] that are true."""
    changes = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


def pearson_per_assay(
    path: Path, pearson: Mapping[str, Mapping[str, Sequence[float]]], scale: str = "log1p"
) -> None:
    """Draw a dot per track and a bar at the mean over tracks; NaN (constant tracks) is left out.

    A row for every assay of every species. pearson: {species: {assay: [per track]}}; scale: the
    name of the scale, for the axis.
    """
    rows = sorted((assay, species) for species, parts in pearson.items() for assay in parts)
    colours = {species: colour_of(place) for place, species in enumerate(pearson)}
    figure = new_figure(7.5, 1.2 + 0.27 * len(rows))
    axes = figure.subplots()
    for place, (assay, species) in enumerate(rows):
        _dots_and_mean(axes, place, np.asarray(pearson[species][assay]), colours[species])
        if place and assay != rows[place - 1][0]:
            axes.axhline(place - 0.5, color="#e6e6e6", linewidth=0.6)
    axes.axvline(0, color=GREY, linewidth=0.6)
    counts = [f"{assay} ({len(pearson[species][assay])})" for assay, species in rows]
    axes.set_yticks(range(len(rows)), counts)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(right=1.0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"Pearson r, {scale} scale", fontsize=9)
    title = "Accuracy per track (dot), mean over tracks (bar); number of tracks"
    axes.set_title(title, loc="left", fontsize=11)
    tidy(axes)
    handles = [
        axes.scatter([], [], s=14, color=colour, label=species)
        for species, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def _dots_and_mean(axes: "Axes", place: int, values: np.ndarray, colour: str) -> None:
    values = values[np.isfinite(values)]
    if not values.size:
        return
    spread = 0.6 * min(1.0, 0.1 * (len(values) - 1))
    golden = (np.arange(len(values)) * 0.618034) % 1.0 - 0.5  # even, not random
    alpha = float(np.clip(30 / len(values), 0.1, 0.7))
    axes.scatter(values, place + spread * golden, s=14, color=colour, alpha=alpha, linewidths=0)
    axes.vlines(values.mean(), place - 0.36, place + 0.36, color=colour, linewidth=2.2)


@dataclass(frozen=True)
class Coverage:
    """Tracks of one species: names and assays [tracks], and their targets by split."""

    title: str
    names: Sequence[str]
    assays: Sequence[str]
    targets: Mapping[str, TargetStatistics]


def coverage(path: Path, species: Sequence[Coverage]) -> None:
    """Draw mean target and share of bins above 0, a mark per track and split, a row per species.

    Tracks are sorted by assay and then by their value in the first split, so that one which is
    unlike itself in another split stands out; crosses are tracks that are 0 in a whole split.
    """
    named = max(len(each.names) for each in species) <= _MOST_NAMED_TRACKS
    figure = new_figure(11.0, (3.5 if named else 3.2) * len(species) + 0.2)
    rows = figure.subfigures(len(species), 1, squeeze=False)[:, 0]
    for part, each in zip(rows, species, strict=True):
        part.suptitle(each.title, fontsize=11, x=0.01, ha="left")
        left, right = part.subplots(1, 2)
        _mark_tracks(left, each, {split: found.mean for split, found in each.targets.items()})
        left.set_yscale("log")
        left.set_title("mean target", loc="left", fontsize=9)
        shares = {split: found.nonzero_share for split, found in each.targets.items()}
        _mark_tracks(right, each, shares)
        right.set_ylim(-0.03, 1.03)
        right.set_title("share of measured bins above 0", loc="left", fontsize=9)
        handles = [
            _mark([], [], place, 30.0, label=split, axes=left)
            for place, split in enumerate(each.targets)
        ]
        part.legend(handles=handles, loc="upper right", ncols=5, fontsize=8, frameon=False)
    save(figure, path)


def _mark_tracks(axes: "Axes", species: Coverage, values: Mapping[str, np.ndarray]) -> None:
    """Mark values [tracks] of each split; what is 0 becomes a cross below all others."""
    num_tracks = len(species.names)
    named = num_tracks <= _MOST_NAMED_TRACKS
    first = np.nan_to_num(next(iter(values.values())))
    order: list[int] = np.lexsort((-first, np.asarray(species.assays))).tolist()
    positive = np.concatenate([split[split > 0] for split in values.values()])
    floor = positive.min() / 3 if positive.size else 1.0
    size = float(np.clip(4000 / num_tracks, 2, 36))
    for place, found in enumerate(values.values()):
        shift = (place - (len(values) - 1) / 2) * 0.5 / len(values) if named else 0.0
        dead = found[order] <= 0
        x, y = np.arange(num_tracks) + shift, np.where(dead, floor, found[order])
        _mark(x[~dead], y[~dead], place, size, axes=axes)
        axes.scatter(x[dead], y[dead], s=24, color=colour_of(place), marker="x", linewidths=1)
    axes.set_xlim(-0.7, num_tracks - 0.3)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    _name_tracks(axes, [species.names[i] for i in order], [species.assays[i] for i in order])
    tidy(axes)


def _mark(x: Any, y: Any, place: int, size: float, axes: "Axes", label: str | None = None) -> Any:
    # The first split lies on top: it is sorted, and the others scatter around it.
    return axes.scatter(
        x, y, s=size, color=colour_of(place), marker="os^Dv"[place % 5], linewidths=0, alpha=0.8,
        zorder=3 - place / 10, label=label,
    )  # fmt: skip


def _name_tracks(axes: "Axes", names: Sequence[str], assays: Sequence[str]) -> None:
    """Write a few names below; of many tracks, the assays and where they begin."""
    starts = [i for i, assay in enumerate(assays) if not i or assay != assays[i - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, linewidth=0.6)
    if len(names) <= _MOST_NAMED_TRACKS:
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        return
    ends = [*starts[1:], len(assays)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    labels = [f"{assays[s]}\n{e - s:,}" for s, e in zip(starts, ends, strict=True)]
    axes.set_xticks(middles, labels, rotation=30 if len(labels) > 6 else 0)
    axes.tick_params(axis="x", length=0)
