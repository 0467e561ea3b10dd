"""Requests to stop: the trainer saves at the next step and leaves."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers a SIGTERM, SIGUSR1 or Ctrl-C; schedulers send theirs, sometimes twice, before they
    kill. A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
