"""The run folder: one run holds it at a time; the files in it that say how the last one ended.

They are for scripts, and vanish when the run goes on; `history.jsonl` keeps what they said.
"""

from __future__ import annotations

import fcntl
import sys
import time
from pathlib import Path
from typing import IO

from spacescale.errors import UserError

FAILED = "FAILED"  # an error ended it: which rank, and why
DONE = "DONE"  # all steps are done, or run.patience is spent
REQUEUE = "REQUEUE"  # it was told to stop for a while, and is to be continued
LOCK_WAIT_S = 15.0  # the processes of a run that was killed are gone by then


def lock_run(output: Path, wait_s: float = LOCK_WAIT_S) -> IO[str]:
    """Hold the run folder for this process until it ends.

    Raises UserError if another run still holds it after wait_s seconds.
    """
    output.mkdir(parents=True, exist_ok=True)
    handle = (output / "run.lock").open("w")
    start, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() - start >= wait_s:
                handle.close()
                raise UserError(
                    f"{output}: in use by another run; choose another --output"
                ) from None
        if not said:
            said = True
            print(
                f"{output}: in use by another run; waiting up to {wait_s:.0f} s for its end",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(min(0.2, wait_s))


def is_held(output: Path) -> bool:
    """Whether a run holds the folder, as far as this machine knows of other machines' locks."""
    try:
        with (output / "run.lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # a file system without locks
        return True
    return False


def remove_markers(output: Path) -> None:
    """Forget what an earlier run in this folder said at its end."""
    for name in (FAILED, DONE, REQUEUE):
        (output / name).unlink(missing_ok=True)
