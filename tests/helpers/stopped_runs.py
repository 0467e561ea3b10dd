"""A prepared run that is trained to its end, or up to a step in which a signal comes."""

import signal
from typing import Any
from unittest.mock import patch

from spacescale.objectives import Losses


def train(prepared: Any, stop: Any, stop_at: int | None) -> None:
    """stop: the StopRequest, or a stand-in, that the run was prepared with."""
    honest = prepared.trainer.objective.losses

    def watched(*args: Any) -> Losses:
        if prepared.trainer.record.step + 1 == stop_at:
            stop.signal = signal.SIGTERM
        return honest(*args)

    with patch.object(prepared.trainer.objective, "losses", watched):
        prepared.trainer.fit(prepared.first_step)
    prepared.trainer.engine.destroy()
    if prepared.lock is not None:
        prepared.lock.close()
