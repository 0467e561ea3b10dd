"""Speed, time left and memory of a run."""

import resource
import sys
import time
from collections import deque
from collections.abc import Callable

import torch


class Throughput:
    """Windows per second over the last steps, and how much of their time was spent on waiting."""

    def __init__(self, last: int = 50, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        # Time in s; windows, and s spent on waiting for data, so far.
        self._marks: deque[tuple[float, int, float]] = deque(maxlen=last + 1)
        self._windows, self._waited_s = 0, 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the past, so that a pause (validation, saving) does not count as slowness."""
        self._marks.clear()
        self._mark()

    def step(self, windows: int, waited_s: float = 0.0) -> None:
        """Count one step of that many windows, over all ranks; waited_s: for data, in all."""
        self._windows += windows
        self._waited_s = waited_s
        self._mark()

    def _mark(self) -> None:
        self._marks.append((self._clock(), self._windows, self._waited_s))

    @property
    def windows_per_s(self) -> float:
        """The speed over the kept steps; NaN before the first."""
        (start, before, _), (end, after, _) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else float("nan")

    @property
    def data_wait_share(self) -> float:
        """The part of the kept steps' time that went into waiting; NaN before the first."""
        (start, _, before), (end, _, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else float("nan")

    def time_left_s(self, steps_left: int) -> float:
        """Return the seconds that many steps would take at this pace; NaN before the first."""
        steps, elapsed = len(self._marks) - 1, self._marks[-1][0] - self._marks[0][0]
        return steps_left * elapsed / steps if steps else float("nan")


def memory_gib(device: torch.device | str = "cpu") -> float:
    """Return the peak memory so far: allocated on a GPU, else resident in this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
