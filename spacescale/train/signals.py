"""Requests to stop: the trainer saves at the next step and leaves."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers a SIGTERM or SIGUSR1; schedulers send them, sometimes twice, before they kill."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
