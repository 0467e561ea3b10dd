"""Whether a checkpoint can be written in the time between a scheduler's warning and its kill."""

from __future__ import annotations

import logging
import math
import os

from spacescale.errors import UserError

GRACE = "SPACESCALE_GRACE_S"

logger = logging.getLogger(__name__)


class Grace:
    """The seconds that SPACESCALE_GRACE_S promises, if it is set; UserError unless it is a number.

    Slurm's scripts set it to the margin of their `--signal`.
    """

    def __init__(self) -> None:
        text = os.environ.get(GRACE, "")
        try:
            self.seconds = float(text) if text else None
        except ValueError:
            self.seconds = math.nan
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UserError(f"{GRACE}={text!r}: must be a number of seconds above 0")
        self._warned = False

    def check(self, save_s: float) -> None:
        """Warn, once, of a save that took more than half of the grace time."""
        if self.seconds is None or self._warned or save_s <= self.seconds / 2:
            return
        self._warned = True
        logger.warning(
            "saving took %.0f s; the warning of a time limit comes only %.0f s before its kill "
            "(%s): ask for more, as with sbatch --signal=B:USR1@%d",
            save_s,
            self.seconds,
            GRACE,
            60 * math.ceil(3 * save_s / 60),
        )
