"""The save that is under way, beside training: each rank writes, then rank 0 completes it.

The thread of a rank touches files alone and never speaks to other ranks. Whether all are done
travels with what they share after each step anyway (train/step_report.py); only then do they act
together.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from spacescale.checkpoint.writing import Progress, Written
from spacescale.errors import UserError
from spacescale.parallel import comm

POLL_S = 1.0


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete: `latest` names it."""

    folder: Path
    step: int
    is_best: bool
    total_s: float  # from the beginning until it is complete


class SaveUnderWay:
    """A save from its copy in host memory to the complete checkpoint. All ranks hold one alike."""

    def __init__(
        self,
        partial: Path,
        folder: Path,
        step: int,
        is_best: bool,
        write: Callable[[Progress], dict[str, Written]],
        complete: Callable[[Mapping[str, Written]], None],
        began: float,
    ):
        """Begin. `write` puts this rank's files into the folder `partial`, `complete` makes it the
        checkpoint `folder`, knowing what all ranks wrote; both run in a thread, `complete` on rank
        0 alone. began: time.perf_counter() before its copy was taken.
        """
        self._partial, self._complete = partial, complete
        self._folder, self._step, self._is_best = folder, step, is_best
        self._began, self._progress = began, Progress()
        self._thread = ThreadPoolExecutor(1, "save")
        self._work: Future = self._thread.submit(write, self._progress)
        self._completing = False

    @property
    def is_ready(self) -> bool:
        """Whether this rank's part of what is being done is over, well or badly."""
        return self._work.done()

    def advance(self) -> Saved | None:
        """Go on to what comes next once all ranks are ready; all call it together.

        Returns the checkpoint when it is complete. Raises UserError, on all ranks alike, if one
        could not write; then nothing of it is left.
        """
        try:
            if self._completing:
                ended = comm.on_main(self._work.result)
                self._thread.shutdown()
                return Saved(self._folder, self._step, self._is_best, ended - self._began)
            by_rank = comm.gather(comm.on_all(self._work.result))
        except UserError:
            if comm.is_main():
                shutil.rmtree(self._partial, ignore_errors=True)
            raise
        written = {name: of_file for files in by_rank for name, of_file in files.items()}
        self._completing = True
        if comm.is_main():
            self._work = self._thread.submit(self._make_whole, written)
        return None

    def _make_whole(self, written: Mapping[str, Written]) -> float:
        """Returns when it was done (time.perf_counter())."""
        self._complete(written)
        return time.perf_counter()

    def finish(self, while_waiting: Callable[[], None]) -> Saved:
        """Wait until it is complete; all ranks call it together. Raises UserError as `advance`.

        while_waiting: called each second in which this rank's thread has got on.
        """
        saved = None
        while saved is None:
            seen = None
            while wait([self._work], POLL_S).not_done:
                if (bytes_done := self._progress.bytes_done) != seen:
                    while_waiting()
                seen = bytes_done
            saved = self.advance()
        return saved
