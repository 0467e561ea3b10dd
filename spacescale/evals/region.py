"""Which stretch of a split is drawn: the one asked for, or one with signal. Positions in bp."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.metrics.track_scale import nonzero_means
from spacescale.predict.places import parse_place

BINS_SHOWN = 1000  # of the default region, at most, where one window has not more
WINDOWS_SHOWN = 4
MOST_WINDOWS = 64  # of a region that is asked for
WINDOWS_READ = 1024  # at most, spread evenly, to find one with signal


@dataclass(frozen=True)
class Piece:
    """Bins of one window, half-open."""

    row: int
    first: int
    last: int


@dataclass(frozen=True)
class Region:
    """A stretch of one contig, in pieces that follow without a gap."""

    chrom: str
    start: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> set[int]:
        """Its windows."""
        return {piece.row for piece in self.pieces}

    def join(self, windows: Mapping[int, np.ndarray]) -> np.ndarray:
        """Put together what there is of its windows, row → (N, T): (bins, T)."""
        return np.concatenate([windows[p.row][p.first : p.last] for p in self.pieces])


def choose_regions(
    datasets: Mapping[str, SpeciesData], split: str, asked: str | None
) -> dict[str, Region]:
    """The region to draw of each species that has windows in the split.

    asked: CONTIG:START-END, 0-based half-open, of every species whose windows cover it; others get
    their own. Without it, windows of high targets in many tracks. Raises UserError for what is no
    region, or is covered by no species' windows.
    """
    with_windows = {n: d for n, d in datasets.items() if d.manifest.num_windows.get(split)}
    found, problems = {}, []
    if asked is not None:
        place = parse_place(asked, "--region")
        for name, data in with_windows.items():
            region = _cover(data, data.rows(split), place.chrom, place.start, place.end)
            if isinstance(region, Region):
                found[name] = region
            else:
                problems.append(f"{name}: {region}")
        if problems and not found:
            why = ". ".join(problems)
            raise UserError(f"--region {asked}: not covered by windows of split {split!r}. {why}")
    for name, data in with_windows.items():
        if name not in found:
            found[name] = with_signal(data, data.rows(split))
    return found


def with_signal(data: SpeciesData, rows: np.ndarray) -> Region:
    """The window whose targets are highest in the mean, and some of its neighbours.

    The mean is of log1p of targets in multiples of the track's mean, so that one spike does not
    decide; of many windows, WINDOWS_READ are looked at.
    """
    means = nonzero_means(data.track_mean).numpy()
    step = -(-len(rows) // WINDOWS_READ)
    best, highest = int(rows[0]), -1.0
    for row in rows[::step].tolist():
        targets = np.log1p(np.maximum(data.targets(row).astype(np.float32) / means, 0))
        signal = float(np.nanmean(targets))
        if signal > highest:
            best, highest = row, signal
    windows, size = data.windows, data.target_length
    most = max(1, min(WINDOWS_SHOWN, BINS_SHOWN // size))
    on_contig = [row for row in rows.tolist() if windows.chrom[row] == windows.chrom[best]]
    starting = {int(windows.start[row]): row for row in on_contig}
    ending = {int(windows.end[row]): row for row in on_contig}
    stretch = [best]
    while (
        len(stretch) < most and (after := starting.get(int(windows.end[stretch[-1]]))) is not None
    ):
        stretch.append(after)
    while (
        len(stretch) < most and (before := ending.get(int(windows.start[stretch[0]]))) is not None
    ):
        stretch.insert(0, before)
    pieces = tuple(Piece(row, 0, size) for row in stretch)
    return Region(str(windows.chrom[best]), int(windows.start[stretch[0]]), pieces)


def _cover(data: SpeciesData, rows: np.ndarray, chrom: str, start: int, end: int) -> Region | str:
    """Cover a stretch by windows, from bin to bin; or say why that cannot be."""
    windows, size = data.windows, data.bin_size
    contigs = sorted({str(name) for name in windows.chrom[rows]})
    if chrom not in contigs:
        return f"its windows are on {_listed(contigs)}"
    of_contig = rows[windows.chrom[rows] == chrom]
    starts, ends = windows.start[of_contig], windows.end[of_contig]
    begin = position = start
    pieces: list[Piece] = []
    while position < end and len(pieces) < MOST_WINDOWS:
        holds = (starts <= position) & (position < ends)
        if pieces:
            holds &= (position - starts) % size == 0
        if not holds.any():
            return f"its windows there cover {_stretches(starts, ends, start, end)}"
        place = int(np.flatnonzero(holds)[ends[holds].argmax()])
        first = (position - int(starts[place])) // size
        last = min(-(-(end - int(starts[place])) // size), data.target_length)
        begin = begin if pieces else int(starts[place]) + first * size
        pieces.append(Piece(int(of_contig[place]), first, last))
        position = int(starts[place]) + last * size
    if position < end:
        return f"it takes more than {MOST_WINDOWS} windows; ask for a shorter one"
    return Region(chrom, begin, tuple(pieces))


def _stretches(starts: np.ndarray, ends: np.ndarray, start: int, end: int) -> str:
    """The stretches that windows cover, those nearest to [start, end) first."""
    merged: list[list[int]] = []
    for low, high in sorted(zip(starts.tolist(), ends.tolist(), strict=True)):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    merged.sort(key=lambda each: max(each[0] - end, start - each[1]))
    return _listed(f"{low}-{high}" for low, high in merged)


def _listed(texts: Iterable[str]) -> str:
    """The first few of them."""
    first, *more = texts
    return ", ".join([first, *more[:3]]) + (" …" if len(more) > 3 else "")
