"""Coverage to targets: the three orders of operations in use, each under a name and a version.

Shapes: coverage float32 [bins, bin_size] of one track, NaN where the file has no value.

basenji2020   pool · soft clip c + √(x − c) above clip_soft · hard clip to [0, clip] · × scale
borzoi        pool · soft clip as above · hard clip to [−clip, clip] · × scale · float16 · clip
              each track at ± the 0.9999999 quantile of its absolute targets
current       × scale · pool · soft clip c − 1 + √(x − c + 1) · hard clip to [−clip, clip] ·
              float16 · clip each track as borzoi does

A scale below 0 turns the sign of the coverage before all of this, and counts by its magnitude from
there on; a sum_stat that begins with abs_, such as abs_mean, takes the magnitude of every base.
They agree with basenji of 2020, with hound_data_read.py --transform_old and hound_data_read.py.
Before all this, bases of the blacklist are brought down to a baseline, a percentile of the window.
Missing values count as 0 in all three: the tools set them to the baseline, but a percentile is
NaN, which they take as 0, wherever a value of the window is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.tracks import Track

FLOAT16_MAX = 65504.0
_EXTREME_QUANTILE = 0.9999999
# The tools take the baseline as 0 for targets of fewer bins.
_FEWEST_BINS_WITH_BASELINE = 8

# Before a sum_stat: of the magnitudes of the bases.
ABSOLUTE = "abs_"
# What to tell of negative targets, and what undoes them.
SIGN_CURE = (
    "in the targets table, scale below 0 (such as -1) turns the sign of a track, sum_stat abs_mean "
    "or abs_sum takes magnitudes"
)
NEGATIVE_TARGETS = (
    "the Poisson loss of training has no minimum for targets below 0, so training refuses them; "
    + SIGN_CURE
)

_Pool = Callable[[np.ndarray], np.ndarray]
_Inverse = Callable[[np.ndarray], np.ndarray]


def _sum(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1, dtype=np.float32)


def _mean(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=1, dtype=np.float32)


_PLAIN_POOLS: dict[str, _Pool] = {
    "sum": _sum,
    "mean": _mean,
    "max": lambda x: x.max(axis=1),
    "median": lambda x: np.median(x, axis=1),
}


@dataclass(frozen=True)
class Transform:
    """One way from coverage to targets. The version changes whenever its numbers would.

    soft_offset: 0 is c + √(x − c); 1 is c − 1 + √(x − c + 1), smooth at c. clip_low_share: the
    hard clip goes from this × clip to clip. baseline_percentile: of the window's coverage.
    blacklist_clipped: blacklisted bases are clipped to ± the baseline, else they become it.
    """

    name: str
    version: int
    pools: dict[str, _Pool]
    roots: dict[str, _Inverse]  # what undoes the root of a sum_stat that takes one
    scale_first: bool
    soft_offset: float
    clip_low_share: float
    clip_extremes: bool
    baseline_percentile: float
    blacklist_clipped: bool

    def check(self, track: Track) -> None:
        """Raise UserError when the transform does not define the track's sum_stat."""
        if track.sum_stat.removeprefix(ABSOLUTE) not in self.pools:
            raise UserError(
                f"track {track.identifier}: transform {self.name} has no sum_stat "
                f"{track.sum_stat!r}; it has {', '.join(self.pools)}, and {ABSOLUTE} before each "
                "for the magnitudes of the bases"
            )
        if track.scale < 0 and track.sum_stat.startswith(ABSOLUTE):
            raise UserError(
                f"track {track.identifier}: scale {track.scale:g} turns the sign and sum_stat "
                f"{track.sum_stat} takes it away; give one of them"
            )

    def mask_blacklisted(
        self, target: np.ndarray, blacklisted: np.ndarray, window: np.ndarray, num_bins: int
    ) -> np.ndarray:
        """Return the coverage of a target with its blacklisted bases brought down to the baseline.

        target: float32 [bases], coverage of the target interval. blacklisted: bool [bases].
        window: float32, coverage of the whole input window, of which the baseline is a percentile,
        or 0 where any value is missing. Missing values stay missing.
        """
        baseline = self._baseline(window) if num_bins >= _FEWEST_BINS_WITH_BASELINE else 0.0
        if self.blacklist_clipped:
            cleaned = np.clip(target, -abs(baseline), abs(baseline))
        else:
            cleaned = np.where(np.isnan(target), target, np.float32(baseline))
        return np.where(blacklisted, cleaned, target).astype(np.float32, copy=False)

    def _baseline(self, window: np.ndarray) -> float:
        if np.isnan(window).any():
            return 0.0
        return float(np.percentile(window, self.baseline_percentile))

    def bins(self, coverage: np.ndarray, track: Track) -> np.ndarray:
        """Return float32 [bins] from coverage, float32 [bins, bin_size] in bp, NaN = missing = 0.

        coverage: with the sign that `signed` gives it. Roots of negative coverage are undefined:
        UserError names the track.
        """
        return self.limited(self.pooled(coverage, track), track)

    def pooled(self, coverage: np.ndarray, track: Track) -> np.ndarray:
        """Return float32 [bins], what the clips of the track are compared with; as `bins`."""
        x = np.where(np.isnan(coverage), np.float32(0), coverage)
        # What is beyond float32 becomes infinite, and is counted as beyond float16.
        with np.errstate(invalid="ignore", over="ignore"):
            if self.scale_first:
                x = x * np.float32(abs(track.scale))
            x = self.pools[track.sum_stat.removeprefix(ABSOLUTE)](x)
        if np.isnan(x).any():
            raise UserError(
                f"track {track.identifier}: sum_stat {track.sum_stat} is undefined for its "
                "negative coverage; take sum or mean"
            )
        return x

    def limited(self, pooled: np.ndarray, track: Track) -> np.ndarray:
        """Return what `bins` does, from what `pooled` returned."""
        x = pooled
        if track.clip_soft is not None:
            x = self._soft_clip(x, track.clip_soft)
        if track.clip is not None:
            x = np.clip(x, self.clip_low_share * track.clip, track.clip)
        if not self.scale_first:
            x = x * np.float32(abs(track.scale))
        return x.astype(np.float32, copy=False)

    def coverage(self, targets: np.ndarray, track: Track) -> np.ndarray:
        """Return what `pooled` of the coverage was, from targets: float32 of the same shape.

        In the units of the track's file, its sign included, as the sum_stat summarises a bin, of
        which the root is undone. What a hard clip took stays taken.
        """
        x = np.asarray(targets, dtype=np.float32)
        scale = np.float32(abs(track.scale))
        if not self.scale_first:
            x = x / scale
        if track.clip_soft is not None:
            above = np.maximum(x - track.clip_soft + self.soft_offset, 0.0)
            x = np.where(x > track.clip_soft, track.clip_soft - self.soft_offset + above**2, x)
        if root := self.roots.get(track.sum_stat.removeprefix(ABSOLUTE)):
            x = root(np.maximum(x, 0.0))
        if self.scale_first:
            x = x / scale
        return (-x if track.scale < 0 else x).astype(np.float32, copy=False)

    def _soft_clip(self, x: np.ndarray, limit: float) -> np.ndarray:
        above = np.maximum(x - limit, 0.0)
        soft = limit - self.soft_offset + np.sqrt(above + self.soft_offset)
        return np.where(x > limit, soft, x)

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Return float16, the shape of `values`: all the targets of one track, float16.

        NaN, what was not measured, stays and does not count. basenji2020 leaves the others alone;
        borzoi and current clip them at ± the 0.9999999 quantile of their absolute values. (The
        tools take the quantile of the values, which would make 0 of a track of negative ones.)
        """
        if not self.clip_extremes or np.isnan(values).all():
            return values
        limit = np.float16(np.nanquantile(np.abs(values).astype(np.float32), _EXTREME_QUANTILE))
        return np.clip(values, -limit, limit)


def signed(coverage: np.ndarray, track: Track) -> np.ndarray:
    """Return coverage, float32 of any shape, with the sign that the track's row asks for.

    First of all steps, so that baselines and clips, which may treat the signs apart, see the
    track as it is meant. NaN stays.
    """
    if track.sum_stat.startswith(ABSOLUTE):
        return np.abs(coverage)
    # From 0, not the negative: that of 0 would be -0.
    return np.float32(0) - coverage if track.scale < 0 else coverage


def to_float16(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return values as float16 and how many were beyond ±65504 and became that; NaN stays."""
    saturated = int(np.count_nonzero(np.abs(values) > FLOAT16_MAX))
    return np.clip(values, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16), saturated


TRANSFORMS = {
    transform.name: transform
    for transform in (
        Transform(
            name="basenji2020",
            version=1,
            pools=_PLAIN_POOLS,
            roots={},
            scale_first=False,
            soft_offset=0.0,
            clip_low_share=0.0,
            clip_extremes=False,
            baseline_percentile=10,
            blacklist_clipped=False,
        ),
        Transform(
            name="borzoi",
            version=2,
            pools={
                **_PLAIN_POOLS,
                "sum_sqrt": lambda x: _sum(x) ** 0.75,
                "mean_sqrt": lambda x: _mean(x) ** 0.75,
            },
            roots=dict.fromkeys(("sum_sqrt", "mean_sqrt"), lambda x: x ** (4 / 3)),
            scale_first=False,
            soft_offset=0.0,
            clip_low_share=-1.0,
            clip_extremes=True,
            baseline_percentile=50,
            blacklist_clipped=True,
        ),
        Transform(
            name="current",
            version=2,
            pools={
                **_PLAIN_POOLS,
                "sum_sqrt": lambda x: np.sqrt(1 + _sum(x)) - 1,
                "mean_sqrt": lambda x: np.sqrt(1 + _mean(x)) - 1,
                "sum_exp75": lambda x: (1 + _sum(x)) ** 0.75 - 1,
            },
            roots={
                "sum_sqrt": lambda x: (x + 1) ** 2 - 1,
                "mean_sqrt": lambda x: (x + 1) ** 2 - 1,
                "sum_exp75": lambda x: (x + 1) ** (4 / 3) - 1,
            },
            scale_first=True,
            soft_offset=1.0,
            clip_low_share=-1.0,
            clip_extremes=True,
            baseline_percentile=50,
            blacklist_clipped=True,
        ),
    )
}


def get_transform(name: str) -> Transform:
    """Return the transform of that name; UserError lists the names there are."""
    if name not in TRANSFORMS:
        raise UserError(f"no transform {name!r}; there are {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]
