"""A line (a TCP connection) from rank 0 to every other rank, over which they watch each other."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from spacescale.parallel import comm
from spacescale.parallel.comm import NotMet
from spacescale.parallel.starters import Process

CONNECT_S = 60.0
KEY = "watch"  # in the store: where rank 0 listens, and a token that keeps strangers out


class Line:
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


@dataclass(frozen=True)
class Place:
    """The process of a rank. On equal machines the same pid is the same process."""

    host: str
    machine: str
    pid: int
    began: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_here(self) -> bool:
        """Whether it lives, and on this machine."""
        return self.machine == _machine() and Process(self.pid, self.began).lives()


def _my_place() -> Place:
    me = Process.of(os.getpid())
    return Place(socket.gethostname(), _machine(), os.getpid(), me.began if me else "")


def _machine() -> str:
    """A name of this machine and of the room of pids on it; "" elsewhere than on Linux."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def open_lines(store: Store) -> tuple[dict[int, Line], dict[int, Place]]:
    """Rank 0's lines to all others, or their line to it; and where which rank runs.

    All ranks call it together, having met in the store. Rank 0 knows the places of all; the others
    their own, and are sent {"places": …}. Raises NotMet where a rank cannot be reached.
    """
    rank, size = comm.rank(), int(os.environ["WORLD_SIZE"])
    if size == 1:
        return {}, {0: _my_place()}
    if rank != 0:
        return {0: _call(store, rank)}, {rank: _my_place()}
    with _server(size) as server:
        token = secrets.token_hex()  # whoever speaks on a line can end the run
        store.set(KEY, json.dumps([server.getsockname()[1], token]))
        lines, places = _answer(server, token, size - 1)
    for line in lines.values():
        line.send({"places": {number: asdict(place) for number, place in places.items()}})
    return lines, places


def _server(size: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, backlog=size, dualstack_ipv6=both)


def _answer(
    server: socket.socket, token: str, others: int
) -> tuple[dict[int, Line], dict[int, Place]]:
    lines, places = {}, {0: _my_place()}
    server.settimeout(CONNECT_S)
    while len(lines) < others:
        try:
            line = Line(server.accept()[0])
        except TimeoutError:
            for line in lines.values():
                line.send({"end": []})
            raise NotMet(
                f"{len(lines)} of {others} other ranks reached rank 0 within {CONNECT_S:.0f} s at "
                f"{os.environ['MASTER_ADDR']}:{server.getsockname()[1]}; open the machines' "
                "ports to each other"
            ) from None
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a stranger's
            for message in line.receive() or []:
                if message["token"] == token:
                    places[message["rank"]] = Place(**message["place"])
                    lines[message["rank"]] = line
    return lines, places


def _call(store: Store, rank: int) -> Line:
    deadline = time.monotonic() + CONNECT_S
    while not store.check([KEY]) and time.monotonic() < deadline:
        time.sleep(0.02)
    host = os.environ["MASTER_ADDR"]
    if not store.check([KEY]):
        raise NotMet(f"rank {rank}: rank 0 at {host} opened no line within {CONNECT_S:.0f} s")
    port, token = json.loads(store.get(KEY))
    try:
        line = Line(socket.create_connection((host, port), CONNECT_S))
    except OSError as error:
        raise NotMet(
            f"rank {rank}: cannot reach rank 0 at {host}:{port}: {error.strerror or error}; open "
            "the machines' ports to each other"
        ) from None
    line.send({"token": token, "rank": rank, "place": asdict(_my_place())})
    return line
