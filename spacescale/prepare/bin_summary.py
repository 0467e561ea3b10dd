"""What the bins of a track are like before any clip: what a person needs to choose its settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spacescale.genome.intervals import Interval
from spacescale.genome.tracks import Track

QUANTILES = (0.5, 0.99, 0.999)
# A proposed clip removes at most this share of a track's signal.
_REMOVED_BY_PROPOSAL = 0.01
_SIGNIFICANT_DIGITS = 2
_TAIL = 2**16  # bins from the highest on to look for it in, at first


@dataclass(frozen=True)
class BinSummary:
    """Of one track's bins in some windows, before clips and, but for `current`, before the scale.

    measured: {split: bases of targets with a value}, those in two windows counted once, about.
    zeros: share of the bases with a value whose value is 0. quantiles: at QUANTILES, of the bins
    with a measured base, infinite ones as float32's largest; largest, place: of the highest of
    them, and largest_share of the signal, which is the sum of the bins above 0, in bins that are
    as high. removed: the share of the signal
    that the clip of the targets table takes away. clip, clip_removes: what would take little away,
    None where every bin would be below it. levels: {contig: (sum, number)} of the bins with a
    measured base, those above the 99 % quantile counted as that.
    """

    measured: dict[str, float]
    zeros: float
    quantiles: tuple[float, ...]
    largest: float
    place: str
    largest_share: float
    removed: float
    clip: float | None
    clip_removes: float
    levels: dict[str, tuple[float, int]]

    @classmethod
    def of(
        cls,
        windows: Sequence[Interval],
        bins: np.ndarray,
        measured: np.ndarray,
        zeros: int,
        track: Track,
    ) -> "BinSummary":
        """Summarise bins, float32 [windows, bins], NaN where not measured.

        measured: int [windows], bases with a value. zeros: how many of all these are 0.
        """
        of_split: dict[str, float] = {}
        shares = new_shares(windows)
        for window, share, bases in zip(windows, shares, measured.tolist(), strict=True):
            of_split[window.split] = of_split.get(window.split, 0.0) + share * bases
        known = bins[~np.isnan(bins)]
        if not known.size:
            none = (math.nan,) * len(QUANTILES)
            return cls(of_split, math.nan, none, math.nan, "", 0.0, 0.0, None, 0.0, {})
        row, column = divmod(int(np.nanargmax(bins)), bins.shape[1])
        # In place: of a large genome it has a hundred megabytes. Sums beyond float32 are infinite.
        ascending = np.nan_to_num(known, copy=False)
        ascending.sort()
        signal = ascending[np.searchsorted(ascending, 0, "right") :]
        total = float(signal.sum(dtype=np.float64))
        as_high = signal[np.searchsorted(signal, ascending[-1]) :]
        clip, clip_removes = _gentle_clip(signal, total)
        return cls(
            measured=of_split,
            zeros=zeros / int(measured.sum()),
            quantiles=tuple(float(ascending[int(q * (known.size - 1))]) for q in QUANTILES),
            largest=float(ascending[-1]),
            place=_place(windows[row], column, bins.shape[1]),
            largest_share=float(as_high.sum(dtype=np.float64)) / total if signal.size else 0.0,
            removed=_removed(signal, total, track.clip) if track.clip else 0.0,
            clip=clip,
            clip_removes=clip_removes,
            levels=_levels(windows, bins, ascending[int(0.99 * (known.size - 1))]),
        )

    def level_beside_others(self, contig: str) -> float:
        """Mean of a contig's bins over that of all others'; NaN where one of them has none."""
        total, number = self.levels.get(contig, (0.0, 0))
        others = [level for name, level in self.levels.items() if name != contig]
        rest, number_of_rest = sum(t for t, _ in others), sum(n for _, n in others)
        if not number or not rest > 0:
            return math.nan
        return total / number / (rest / number_of_rest)


def _levels(
    windows: Sequence[Interval], bins: np.ndarray, highest: float
) -> dict[str, tuple[float, int]]:
    """Return {contig: (sum, number)} of its measured bins, none counted above `highest`."""
    rows: dict[str, list[int]] = {}
    for row, window in enumerate(windows):
        rows.setdefault(window.chrom, []).append(row)
    found = {}
    for contig, of_contig in rows.items():
        here = bins[of_contig]
        known = here[~np.isnan(here)]
        found[contig] = float(np.minimum(known, highest).sum(dtype=np.float64)), known.size
    return found


def new_shares(windows: Sequence[Interval]) -> list[float]:
    """Return the share of each window that the next one of its split does not hold again."""
    following = [*windows[1:], None]
    return [
        min((after.start - window.start) / (window.end - window.start), 1.0)
        if after is not None and (after.chrom, after.split) == (window.chrom, window.split)
        else 1.0
        for window, after in zip(windows, following, strict=True)
    ]


def bases_of_splits(windows: Sequence[Interval]) -> dict[str, float]:
    """Return {split: bases of its targets}, those in two windows counted once."""
    bases: dict[str, float] = {}
    for window, share in zip(windows, new_shares(windows), strict=True):
        bases[window.split] = bases.get(window.split, 0.0) + share * (window.end - window.start)
    return bases


def _removed(ascending: np.ndarray, total: float, clip: float) -> float:
    """Return the share of the total, the sum of the bins above 0, that lies above the clip."""
    above = ascending[np.searchsorted(ascending, clip) :]
    return (float(above.sum(dtype=np.float64)) - clip * above.size) / total if above.size else 0.0


def _gentle_clip(ascending: np.ndarray, total: float) -> tuple[float | None, float]:
    """Return a round clip that takes away at most 1 % of the signal, and what it takes.

    ascending: float32, bins above 0; total: their sum.
    """
    if not ascending.size:
        return None, 0.0
    limit, size = _REMOVED_BY_PROPOSAL * total, _TAIL
    while size < ascending.size and _removed(ascending, total, ascending[-size]) * total <= limit:
        size *= 2
    tail = ascending[-size:].astype(np.float64)
    from_here, above = np.cumsum(tail[::-1])[::-1], np.arange(tail.size, 0, -1)
    # A clip at a bin takes from_here - above * bin away: more than the limit before `first`.
    first = np.searchsorted(above * tail - from_here, -limit)
    enough = (from_here[first] - limit) / above[first]
    step = 10.0 ** (math.floor(math.log10(enough)) + 1 - _SIGNIFICANT_DIGITS)
    clip = float(f"{math.ceil(enough / step) * step:.{_SIGNIFICANT_DIGITS}g}")
    return (clip, _removed(ascending, total, clip)) if clip < ascending[-1] else (None, 0.0)


def _place(window: Interval, column: int, num_bins: int) -> str:
    bin_bp = (window.end - window.start) // num_bins
    start = window.start + column * bin_bp
    return f"{window.chrom}:{start}-{start + bin_bp}"
