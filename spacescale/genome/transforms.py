"""Coverage to targets: the three orders of operations in use, each under a name and a version.

Shapes: coverage float32 [bins, bin_size] of one track, NaN where the file has no value.

basenji2020   pool · soft clip c + √(x − c) above clip_soft · hard clip to [0, clip] · × scale
borzoi        the same, with `sum_sqrt` = (sum)^0.75
current       × scale · pool · soft clip c − 1 + √(x − c + 1) · hard clip to [−clip, clip] ·
              float16 · clip each track at its 0.9999999 quantile

Missing values count as 0 in all three. The tools set them to a percentile of the window, but
that percentile is NaN, hence 0, wherever a value is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.tracks import Track

FLOAT16_MAX = 65504.0
_EXTREME_QUANTILE = 0.9999999

_Pool = Callable[[np.ndarray], np.ndarray]


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
    """One way from coverage to targets. The version changes whenever its numbers would."""

    name: str
    version: int
    pools: dict[str, _Pool]
    scale_first: bool
    soft_offset: float  # 0: c + √(x − c); 1: c − 1 + √(x − c + 1), smooth at c
    clip_low_share: float  # the hard clip goes from this × clip to clip
    clip_extremes: bool

    def check(self, track: Track) -> None:
        """Raise UserError when the transform does not define the track's sum_stat."""
        if track.sum_stat not in self.pools:
            raise UserError(
                f"track {track.identifier}: transform {self.name} has no sum_stat "
                f"{track.sum_stat!r}; it has {', '.join(self.pools)}"
            )

    def bins(self, coverage: np.ndarray, track: Track) -> np.ndarray:
        """Return float32 [bins] from coverage, float32 [bins, bin_size] in bp, NaN = missing.

        Roots of negative coverage are undefined: UserError names the track.
        """
        x = np.nan_to_num(coverage, nan=0.0)
        if self.scale_first:
            x = x * np.float32(track.scale)
        with np.errstate(invalid="ignore"):
            x = self.pools[track.sum_stat](x)
        if np.isnan(x).any():
            raise UserError(
                f"track {track.identifier}: sum_stat {track.sum_stat} is undefined for its "
                "negative coverage; take sum or mean"
            )
        if track.clip_soft is not None:
            x = self._soft_clip(x, track.clip_soft)
        if track.clip is not None:
            x = np.clip(x, self.clip_low_share * track.clip, track.clip)
        if not self.scale_first:
            x = x * np.float32(track.scale)
        return x.astype(np.float32, copy=False)

    def _soft_clip(self, x: np.ndarray, limit: float) -> np.ndarray:
        above = np.maximum(x - limit, 0.0)
        soft = limit - self.soft_offset + np.sqrt(above + self.soft_offset)
        return np.where(x > limit, soft, x)

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Return float16, the shape of `values`: all the targets of one track, float16.

        `current` clips them at the track's 0.9999999 quantile; the others leave them alone.
        """
        if not self.clip_extremes or not values.size:
            return values
        limit = np.quantile(values.astype(np.float32), _EXTREME_QUANTILE)
        return np.minimum(values, np.float16(limit))


def to_float16(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return values as float16 and how many were beyond ±65504 and became that."""
    saturated = int(np.count_nonzero(np.abs(values) > FLOAT16_MAX))
    return np.clip(values, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16), saturated


TRANSFORMS = {
    transform.name: transform
    for transform in (
        Transform(
            name="basenji2020",
            version=1,
            pools=_PLAIN_POOLS,
            scale_first=False,
            soft_offset=0.0,
            clip_low_share=0.0,
            clip_extremes=False,
        ),
        Transform(
            name="borzoi",
            version=1,
            pools={**_PLAIN_POOLS, "sum_sqrt": lambda x: _sum(x) ** 0.75},
            scale_first=False,
            soft_offset=0.0,
            clip_low_share=0.0,
            clip_extremes=False,
        ),
        Transform(
            name="current",
            version=1,
            pools={
                **_PLAIN_POOLS,
                "sum_sqrt": lambda x: np.sqrt(1 + _sum(x)) - 1,
                "mean_sqrt": lambda x: np.sqrt(1 + _mean(x)) - 1,
                "sum_exp75": lambda x: (1 + _sum(x)) ** 0.75 - 1,
            },
            scale_first=True,
            soft_offset=1.0,
            clip_low_share=-1.0,
            clip_extremes=True,
        ),
    )
}


def get_transform(name: str) -> Transform:
    """Return the transform of that name; UserError lists the names there are."""
    if name not in TRANSFORMS:
        raise UserError(f"no transform {name!r}; there are {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]
