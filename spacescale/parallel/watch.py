"""Ends all ranks together when one raises, dies or hangs, and says which.

Every rank has a line (a TCP connection) to rank 0. Each second a thread sends a beat down it: how
many forward passes the rank has begun and where its main thread stands. A line that breaks is a
rank that died. A line that is silent, or beats that stand still on all ranks, are a hang: nothing
short of that can be told from one slow step. A beat tells the main thread's whole stack of calls,
so that long work in one place (compiling, hashing a file) is no standstill. Whoever notices sends
"end" down its lines and claims the file FAILED in the run folder; the one rank that gets it speaks.
A silent rank, which cannot end itself, is killed by those on its machine.

The lines are sockets of our own, for the store of the process group does not say that a client has
gone: a killed rank would only be silent there, as one that is busy is, and be named after minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
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

import torch.distributed as dist
from torch import nn

from spacescale.config import HANG_TIMEOUT_S
from spacescale.errors import UserError
from spacescale.metrics.history import Record
from spacescale.parallel import comm
from spacescale.parallel.run_folder import FAILED
from spacescale.parallel.starters import Process

BEAT_S = 1.0
CONNECT_S = 60.0
PAUSE_S = 10.0  # a round this long means that this process itself was stopped
OTHERS_END_S = 5.0  # another rank's end is heard of sooner than this
MAX_END_S = 10.0  # nothing, not even a full disk, delays the end longer
ENDED = 3  # exit status of ranks whose run failed
PACKAGE = str(Path(__file__).parents[1]) + os.sep
COLLECTIVES = str(Path("torch", "distributed")) + os.sep


@dataclass
class Beat:
    """What was last heard of a rank."""

    forwards: int = 0
    place: str = "its start"
    waits: bool = False  # in a collective, for the others
    stack: int = 0  # a hash of all calls that its main thread is in
    time: float = field(default_factory=time.monotonic, compare=False)


class Watch:
    """Watches over all ranks as long as its `with` block lasts; leaving it by an error ends all."""

    def __init__(
        self, leave: Callable[[int], NoReturn], hang_timeout_s: float = HANG_TIMEOUT_S
    ) -> None:
        """Open the lines. All ranks call it together, once they have joined the group.

        leave: ends this process because another rank was told to stop, by that signal.
        """
        self._leave = leave
        self.rank = comm.rank()
        self.hang_timeout_s = hang_timeout_s
        self.record: Record | None = None  # of the run, once it holds its folder
        self._forwards, self._closed = 0, False
        self._main = threading.main_thread().ident
        self._lines = _open_lines()
        self._places = _gather_places()
        self._beats = {rank: Beat() for rank in {*self._lines, self.rank}}
        self._moved = time.monotonic()
        self._selector = selectors.DefaultSelector()
        for rank, line in self._lines.items():
            self._selector.register(line.socket, selectors.EVENT_READ, rank)
        threading.Thread(target=self._run, daemon=True, name="watch").start()

    def follow(self, model: nn.Module) -> None:
        """From now on count the model's forward passes."""
        model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._forwards += 1

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

    def tell_stop(self, number: int) -> None:
        """Let all other ranks leave, because this one does at a signal before training began."""
        self._closed = True
        for line in list(self._lines.values()):
            line.send({"stop": number})

    def interrupt(self) -> NoReturn:
        """End all ranks at once because the user asks for it."""
        self._end([self.rank], "interrupted")

    def _fail(self, error: Exception) -> NoReturn:
        if self._lines and isinstance(error, RuntimeError | comm.OtherRankFailed):
            # Collectives raise when another rank has ended. That rank, not this one, is to be
            # named: hearing of it ends this process from the watching thread.
            time.sleep(OTHERS_END_S)
        if isinstance(error, UserError | OSError):
            self._end([self.rank], str(error))
        self._end([self.rank], repr(error), error)

    # ---- The watching thread ---------------------------------------------------------------------

    def _run(self) -> None:
        last = time.monotonic()
        while not self._closed:
            self._beat()
            for key, _ in self._selector.select(BEAT_S):
                self._hear(key.data)
            now = time.monotonic()
            if now - last > PAUSE_S:
                self._restart_clocks(now)
            last = now
            self._judge(now)

    def _beat(self) -> None:
        place, waits, stack = _where(self._main)
        mine = Beat(self._forwards, place, waits, stack)
        self._note(self.rank, mine)
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
            where = ", ".join(str(self._places[rank]) for rank in silent)
            what = f"not heard of for {limit:.0f} s (stopped, or cut off?); {where}"
            self._end(silent, what, kill=silent)
        if self.rank == 0 and now - self._moved > limit:
            blamed = _blamed(self._beats)
            places = "; ".join(dict.fromkeys(self._beats[rank].place for rank in blamed))
            self._end(blamed, f"has stood still for {limit:.0f} s (run.hang_timeout_s) in {places}")

    def _end(
        self,
        ranks: list[int],
        what: str,
        error: BaseException | None = None,
        kill: Sequence[int] = (),
    ) -> NoReturn:
        """End all ranks, `kill` by force; the first to claim FAILED says why."""
        self._closed = True  # what comes back must not end this process before it has spoken
        late = threading.Timer(MAX_END_S, os._exit, [ENDED])
        late.daemon = True
        late.start()
        self._pass_on(kill)
        self._kill_here(kill)
        names = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        if self._claim(f"{names}: {what}"):
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
        for place in (self._places[rank] for rank in ranks):
            if place.machine == self._places[self.rank].machine and place.process.lives():
                with contextlib.suppress(OSError):
                    os.kill(place.process.pid, signal.SIGKILL)

    def _claim(self, text: str) -> bool:
        """Whether this rank is the one to speak; if so, it also writes the run's end."""
        if self.record is None:
            return True
        try:
            with (self.record.folder / FAILED).open("xb") as handle:
                handle.write(text.encode(errors="backslashreplace") + b"\n")
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


@dataclass(frozen=True)
class _Place:
    """Where a rank runs."""

    host: str
    machine: str  # on equal ones the same pid is the same process
    process: Process

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.host}"


def _gather_places() -> list[_Place]:
    """Where each rank runs."""
    host, pids = socket.gethostname(), ""
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = f" {boot} {Path('/proc/self/ns/pid').readlink()}"
    mine = _Place(host, host + pids, Process.of(os.getpid()) or Process(os.getpid(), ""))
    places = [mine] * comm.world_size()
    if len(places) > 1:
        dist.all_gather_object(places, mine)
    return places


# ---- Lines --------------------------------------------------------------------------------------


class _Line:
    """JSON objects, one per text line, over a socket."""

    def __init__(self, connected: socket.socket):
        connected.settimeout(CONNECT_S)
        self.socket, self._rest = connected, b""

    def send(self, message: dict[str, Any]) -> None:
        """Send, or do nothing: a broken line shows when reading."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Wait for something; the messages complete by now, or None when the other end is gone."""
        try:
            found = self.socket.recv(65536)
        except OSError:
            found = b""
        if not found:
            return None
        *lines, self._rest = (self._rest + found).split(b"\n")
        return [json.loads(line) for line in lines]


def _open_lines() -> dict[int, _Line]:
    """Rank 0's lines to all others; their line to it."""
    if comm.world_size() == 1:
        return {}
    with _server() if comm.is_main() else contextlib.nullcontext() as server:
        # The token keeps strangers out: whoever speaks on a line can end the run.
        port, token = comm.on_main(
            lambda: (server.getsockname()[1], secrets.token_hex()) if server else None
        )
        return comm.on_all(lambda: _answer(server, token) if server else _call(port, token))


def _server() -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(
        ("", 0), family=family, backlog=comm.world_size(), dualstack_ipv6=both
    )


def _answer(server: socket.socket, token: str) -> dict[int, _Line]:
    lines, others = {}, comm.world_size() - 1
    server.settimeout(CONNECT_S)
    while len(lines) < others:
        try:
            line = _Line(server.accept()[0])
        except TimeoutError:
            raise UserError(
                f"{len(lines)} of {others} other ranks reached rank 0 within {CONNECT_S:.0f} s at "
                f"{os.environ['MASTER_ADDR']}:{server.getsockname()[1]}; open the machines' "
                "ports to each other"
            ) from None
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a stranger's
            for message in line.receive() or []:
                if message["token"] == token:
                    lines[message["rank"]] = line
    return lines


def _call(port: int, token: str) -> dict[int, _Line]:
    line = _Line(socket.create_connection((os.environ["MASTER_ADDR"], port), CONNECT_S))
    line.send({"token": token, "rank": comm.rank()})
    return {0: line}
