"""What each species lost over many steps: sums over windows, not over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LossSums = Mapping[str, "LossSum"]  # by species


@dataclass(frozen=True)
class LossSum:
    """A species' unweighted loss, added up over windows of all ranks."""

    total: float = 0.0  # each window's mean over its measured targets, times their share
    measured: float = 0.0  # windows, of each the share of its targets that was measured
    windows: int = 0

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(
            self.total + other.total,
            self.measured + other.measured,
            self.windows + other.windows,
        )

    @property
    def mean(self) -> float:
        """Mean over the measured targets of all windows; NaN without any."""
        return self.total / self.measured if self.measured else math.nan


class IntervalLosses:
    """Adds up every step's losses until they are taken; alike on all ranks."""

    def __init__(self, species: list[str]):
        self.sums = {name: LossSum() for name in species}

    def add(self, losses: LossSums) -> None:
        """Add a step's sums over its micro-steps and ranks.

        Windows of a species whose loss was not finite are left out: their step is reported.
        """
        for name, of_step in losses.items():
            if math.isfinite(of_step.total):
                self.sums[name] += of_step

    def take(self) -> dict[str, LossSum]:
        """The sums since they were last taken, of all species; begins anew."""
        taken = self.sums
        self.sums = {name: LossSum() for name in taken}
        return taken

    def state(self) -> dict[str, list[float]]:
        """What a resumed run goes on from, as plain values."""
        return {name: [s.total, s.measured, s.windows] for name, s in self.sums.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Go on from what `state` gave; from {} as with nothing added."""
        for name in self.sums:
            total, measured, windows = state.get(name, (0.0, 0.0, 0))
            self.sums[name] = LossSum(total, measured, int(windows))
