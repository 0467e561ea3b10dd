"""Losses and gradient norms far above those of the steps before.

The rule is that of OLMo-core's SkipStepOptimizer: beyond 6 standard deviations of the last 128
steps, once there are half as many.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping

WINDOW, DEVIATIONS = 128, 6.0


class SpikeWatch:
    """Remembers the last finite losses and gradient norms, and tells which values spike.

    A spike is remembered as other values are, so that a level that has changed for good is one no
    longer after a while.
    """

    def __init__(self) -> None:
        self._last = {name: deque[float](maxlen=WINDOW) for name in ("loss", "gradient norm")}

    def spikes(self, values: Mapping[str, float]) -> list[str]:
        """Say which of these values ('loss', 'gradient norm') spike, each as a few words."""
        return [words for name, value in values.items() if (words := self._spike(name, value))]

    def remember(self, values: Mapping[str, float]) -> None:
        """Add the values of a step; those that are not finite are left out."""
        for name, value in values.items():
            if math.isfinite(value):
                self._last[name].append(value)

    def _spike(self, name: str, value: float) -> str:
        last = self._last[name]
        if len(last) < WINDOW // 2 or not math.isfinite(value):
            return ""
        mean, deviation = statistics.fmean(last), statistics.pstdev(last)
        if value <= mean + DEVIATIONS * deviation:
            return ""
        away = (value - mean) / deviation if deviation else math.inf
        return f"{name} {value:.4g}, {away:.0f} standard deviations above {mean:.4g}"

    def state(self) -> dict[str, list[float]]:
        """What a resumed run needs to judge as this one would, as plain values."""
        return {name: list(values) for name, values in self._last.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Go on from what `state` gave."""
        for name, values in self._last.items():
            values.clear()
            values.extend(state.get(name, []))
