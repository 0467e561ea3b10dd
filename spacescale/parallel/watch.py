"""Ends all ranks together when one raises, dies or hangs, and says which.

Every rank has a line (a TCP connection) to rank 0. Each second a thread sends a beat down it: how
many forward passes the rank has begun and where its main thread stands. A line that breaks is a
rank that died. A line that is silent, or beats that stand still on all ranks, are a hang: nothing
short of that can be told from one slow step. A beat tells the main thread's whole stack of calls,
so that long work in one place (compiling, hashing a file) is no standstill. Whoever notices sends
"end" down its lines and claims the file FAILED in the run folder; the one rank that gets it speaks.
A silent rank, which cannot end itself, is killed by those on its machine.

The lines (`lines.py`) are sockets of our own, for the store of the process group does not say that
a client has gone: a killed rank would only be silent there, as one that is busy is, and be named
after minutes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from torch import nn
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from spacescale.config import HANG_TIMEOUT_S
from spacescale.errors import UserError
from spacescale.metrics.history import Record
from spacescale.parallel import comm
from spacescale.parallel.lines import Line, Place, open_lines
from spacescale.parallel.run_folder import FAILED

BEAT_S = 1.0
PAUSE_S = 10.0  # a round this long means that this process itself was stopped
OTHERS_END_S = 5.0  # another rank's end is heard of sooner than this
MAX_END_S = 10.0  # nothing, not even a full disk, delays the end longer
ENDED = 3  # exit status of ranks whose run failed
NEEDS_A_PERSON = "needs a person: the same error would come again"  # read by slurm/common.sh
PACKAGE = str(Path(__file__).parents[1]) + os.sep
COLLECTIVES = str(Path("torch", "distributed")) + os.sep


@dataclass
class Beat:
    """What was last heard of a rank."""

    forwards: int = 0
    place: str = "its start"
    waits: bool = False  # in a collective, for the others
    stack: int = 0  # a hash of all calls that its main thread is in, and of what it waits for
    time: float = field(default_factory=time.monotonic, compare=False)


class Watch:
    """Watches over all ranks as long as its `with` block lasts; leaving it by an error ends all."""

    def __init__(
        self, leave: Callable[[int], NoReturn], hang_timeout_s: float = HANG_TIMEOUT_S
    ) -> None:
        """Watch nothing yet: `open` begins it.

        leave: ends this process because another rank was told to stop, by that signal.
        """
        self._leave = leave
        self.hang_timeout_s = hang_timeout_s
        self.record: Record | None = None  # of the run, once it has begun
        self._forwards, self._progress, self._closed = 0, 0, False
        self._main = threading.main_thread().ident
        self._lines: dict[int, Line] = {}
        self._places: dict[int, Place] = {}
        self._beats: dict[int, Beat] = {}
        self._moved = 0.0
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._awake, self._wake = socket.socketpair()  # closing ends the thread's wait

    def open(self, store: Store) -> None:
        """Begin to watch. All ranks call it once they have met in the store, before anything that
        could hang, such as joining NCCL. Raises NotMet where a rank cannot be reached.
        """
        self._lines, self._places = open_lines(store)
        self._beats = {rank: Beat() for rank in {*self._lines, comm.rank()}}
        self._moved = time.monotonic()
        for rank, line in self._lines.items():
            self._selector.register(line.socket, selectors.EVENT_READ, rank)
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")
        self._thread.start()

    def follow(self, model: nn.Module) -> None:
        """From now on count the model's forward passes."""
        model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._forwards += 1

    def note_progress(self) -> None:
        """Note that what the main thread waits for, a save, gets on: it is no standstill."""
        self._progress += 1

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Say goodbye, or end all ranks because of `error`."""
        if isinstance(error, Exception):
            self._fail(error)
        self._closed = True
        for line in list(self._lines.values()):
            line.send({"bye": True})
        # The thread looks at the main thread's calls: not while the interpreter is taken down.
        self._wake.close()
        if self._thread is not None:
            self._thread.join(MAX_END_S)

    def tell_stop(self, number: int) -> None:
        """Let all other ranks leave, because this one does at a signal before training began."""
        self._closed = True
        for line in list(self._lines.values()):
            line.send({"stop": number})

    def interrupt(self) -> NoReturn:
        """End all ranks at once because the user asks for it."""
        self._end([comm.rank()], "interrupted")

    def _fail(self, error: Exception) -> NoReturn:
        if self._lines and isinstance(error, RuntimeError | comm.OtherRankFailed):
            # Collectives raise when another rank has ended. That rank, not this one, is to be
            # named: hearing of it ends this process from the watching thread.
            time.sleep(OTHERS_END_S)
        if isinstance(error, UserError):
            self._end([comm.rank()], str(error), more=NEEDS_A_PERSON)
        if isinstance(error, OSError):
            self._end([comm.rank()], str(error))
        self._end([comm.rank()], repr(error), error)

    # ---- The watching thread ---------------------------------------------------------------------

    def _run(self) -> None:
        last = beaten = time.monotonic()
        self._beat()
        while not self._closed:
            for key, _ in self._selector.select(max(0.0, beaten + BEAT_S - last)):
                if self._closed:
                    return
                self._hear(key.data)
            now = time.monotonic()
            if now >= beaten + BEAT_S:  # not at each message: a beat would answer a beat at once
                self._beat()
                beaten = now
            if now - last > PAUSE_S:
                self._restart_clocks(now)
            last = now
            self._judge(now)

    def _beat(self) -> None:
        place, waits, stack = _where(self._main)
        mine = Beat(self._forwards, place, waits, hash((stack, self._progress)))
        self._note(comm.rank(), mine)
        for line in list(self._lines.values()):
            line.send({"beat": [mine.forwards, mine.place, mine.waits, mine.stack]})

    def _note(self, rank: int, beat: Beat) -> None:
        if beat != self._beats[rank]:
            self._moved = beat.time
        self._beats[rank] = beat

    def _hear(self, rank: int) -> None:
        """Read what came down a line."""
        messages = self._lines[rank].receive()
        for message in messages or []:
            if "beat" in message:
                self._note(rank, Beat(*message["beat"]))
            elif "places" in message:
                self._places = {int(n): Place(**place) for n, place in message["places"].items()}
            elif "bye" in message:
                self._selector.unregister(self._lines.pop(rank).socket)
                del self._beats[rank]
                return
            elif "stop" in message and not self._closed:
                self._leave(message["stop"])
            elif "end" in message and not self._closed:
                self._pass_on(message["end"])
                self._kill_here(message["end"])
                os._exit(ENDED)
        if messages is None and not self._closed:
            self._end([rank], "its process is gone (killed, or out of memory?)")

    def _restart_clocks(self, now: float) -> None:
        """Count from now on: a rank that was stopped itself cannot judge the others."""
        self._moved = now
        for beat in self._beats.values():
            beat.time = now

    def _judge(self, now: float) -> None:
        limit = self.hang_timeout_s
        if silent := [rank for rank, beat in self._beats.items() if now - beat.time > limit]:
            where = ", ".join(str(self._places[rank]) for rank in silent if rank in self._places)
            what = f"not heard of for {limit:.0f} s (stopped, or cut off?); {where}"
            self._end(silent, what, kill=silent)
        if comm.rank() == 0 and now - self._moved > limit:
            blamed = _blamed(self._beats)
            places = "; ".join(dict.fromkeys(self._beats[rank].place for rank in blamed))
            self._end(blamed, f"has stood still for {limit:.0f} s (run.hang_timeout_s) in {places}")

    def _end(
        self,
        ranks: list[int],
        what: str,
        error: BaseException | None = None,
        kill: Sequence[int] = (),
        more: str = "",
    ) -> NoReturn:
        """End all ranks, `kill` by force; the first to claim FAILED says why.

        more: a line in FAILED for scripts.
        """
        self._closed = True  # what comes back must not end this process before it has spoken
        late = threading.Timer(MAX_END_S, os._exit, [ENDED])
        late.daemon = True
        late.start()
        self._pass_on(kill)
        self._kill_here(kill)
        names = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        if self._claim(f"{names}: {what}", more):
            if error is not None:
                traceback.print_exception(error)
            print(f"error on {names}: {what}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(ENDED)  # an orderly end would wait for collectives that nobody completes

    def _pass_on(self, kill: Sequence[int]) -> None:
        for line in list(self._lines.values()):
            line.send({"end": list(kill)})

    def _kill_here(self, ranks: Sequence[int]) -> None:
        """Kill those of the ranks that run on this machine."""
        for place in (self._places[rank] for rank in ranks if rank in self._places):
            if place.is_here():
                with contextlib.suppress(OSError):
                    os.kill(place.pid, signal.SIGKILL)

    def _claim(self, text: str, more: str) -> bool:
        """Whether this rank is the one to speak; if so, it also writes the run's end."""
        if self.record is None:
            return True
        try:
            with (self.record.folder / FAILED).open("xb") as handle:
                lines = f"{text}\n{more}\n" if more else f"{text}\n"
                handle.write(lines.encode(errors="backslashreplace"))
            self.record.end("failed", error=text)
        except FileExistsError:
            return False
        except OSError:  # full or gone: better said twice than never
            return True
        return True


def _blamed(beats: dict[int, Beat]) -> list[int]:
    """Who holds up the others: whoever began the fewest forward passes, or waits for nobody."""
    fewest = min(beat.forwards for beat in beats.values())
    behind = [rank for rank, beat in beats.items() if beat.forwards == fewest]
    working = [rank for rank in behind if not beats[rank].waits]
    return sorted(working or behind)


def _where(thread: int | None) -> tuple[str, bool, int]:
    """The innermost line of this package that a thread is at, whether it waits there for others,
    and a hash of all calls that it is in."""
    frame: FrameType | None = sys._current_frames().get(thread or 0)
    place, waits, calls = "", False, []
    while frame is not None:
        file = frame.f_code.co_filename
        calls.append((file, frame.f_lasti))
        if not place and file.startswith(PACKAGE):
            name = file.removeprefix(PACKAGE)
            place = f"{name}:{frame.f_lineno} ({frame.f_code.co_name})"
        waits = waits or (not place and COLLECTIVES in file)
        frame = frame.f_back
    return place or "code of other packages", waits, hash(tuple(calls))
