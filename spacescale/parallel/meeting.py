"""The first meeting of all ranks: who is missing, where and for how long, instead of a mute wait.

Every rank puts a card into a TCP store that rank 0 keeps (torchrun's agent under torchrun); rank 0
opens the door when all have. All waiting is done in Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from torch.distributed import (
    DistError,  # pyright: ignore[reportPrivateImportUsage]
    DistNetworkError,  # pyright: ignore[reportPrivateImportUsage]
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from spacescale.errors import UserError
from spacescale.parallel.comm import NotMet

POLL_S = 1.0  # at most; a tenth of the time waited so far
REFUSAL_STAYS_S = (
    1.5  # rank 0, which keeps the store, stays this long for the others to read why it ends
)
FIRST_REPORT_S, REPORT_EVERY_S = 5.0, 60.0  # of a wait: the first line, and those after it
OTHER_PORT = (
    "give another one: deepspeed --master_port N, torchrun --master-port N, else export "
    "MASTER_PORT=N for all ranks"
)
SHOWN = 8  # ranks and machines named in one line


@dataclass(frozen=True)
class Card:
    """Who a rank is. `run` tells runs apart where the launcher does; None: it does not tell."""

    rank: int
    world_size: int
    host: str
    pid: int
    run: list[str] | None

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size} (process {self.pid} on {self.host})"


def my_card() -> Card:
    """This process's own."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Card(rank, size, socket.gethostname(), os.getpid(), _run())


def _run() -> list[str] | None:
    """A place and the run in it: ranks with one place and unlike runs belong to different runs."""
    env = os.environ
    if "CROSS_RANK" in env:  # deepspeed: one launcher per node
        with contextlib.suppress(OSError):  # elsewhere than on Linux
            space = Path("/proc/self/ns/pid").readlink()
            place = f"{socket.gethostname()} {space} node {env['CROSS_RANK']}"
            return [place, f"launcher {os.getppid()}"]
    if "SLURM_STEP_ID" in env:
        return ["Slurm", env.get("SLURM_HET_JOB_ID") or env["SLURM_JOB_ID"]]
    return None


def of_other_runs(one: Card, other: Card) -> bool:
    """Whether two ranks certainly belong to different runs."""
    a, b = one.run, other.run
    return a is not None and b is not None and a[0] == b[0] and a[1] != b[1]


class Meeting:
    """The wait of one rank; `meet` runs it."""

    def __init__(self, source: str, limit_s: float) -> None:
        """source: where RANK and WORLD_SIZE come from."""
        self.card, self.source, self.limit_s = my_card(), source, limit_s
        self.host, self.port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.place = f"{self.host}:{self.port}"
        self.start = time.monotonic()
        self.next_report = FIRST_REPORT_S

    def run(self) -> Store:
        """Return the store once all ranks have met; NotMet says why they have not."""
        try:
            self._wait(self._is_known, lambda: f"the name MASTER_ADDR={self.host} to be known here")
            store = self._prefixed(self._open())
            self._check_in(store)
            self._wait_for_all(store)
        except DistError as error:
            raise NotMet(
                f"{self.card}: lost rank 0 at {self.place} before all had met: {_first_line(error)}"
            ) from None
        return store

    # ---- Reaching the store ----------------------------------------------------------------------

    def _is_known(self) -> bool:
        try:
            socket.getaddrinfo(self.host, self.port)
        except OSError:  # a name may become known only when its machine is up
            return False
        return True

    def _open(self) -> Store:
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return self._serve() if self.card.rank == 0 and not agent else self._reach()

    def _serve(self) -> Store:
        try:
            return self._store(is_master=True)
        except DistNetworkError as error:
            if "EADDRINUSE" not in str(error):
                raise
            raise NotMet(
                f"port {self.port} is taken on {self.card.host}, by another run or another "
                f"process with RANK=0; {OTHER_PORT}"
            ) from None

    def _reach(self) -> Store:
        self._wait(self._answers, lambda: f"rank 0 at {self.place}, which does not answer")
        # In a thread, because connecting to something that is no store never returns.
        found: list[Store] = []
        failed: list[DistError] = []

        def connect() -> None:
            try:
                found.append(self._store(is_master=False))
            except DistError as error:
                failed.append(error)

        threading.Thread(target=connect, daemon=True).start()
        self._wait(
            lambda: bool(found or failed),
            lambda: f"rank 0 at {self.place}, where something else listens (another program?)",
        )
        if failed:
            raise failed[0]
        return found[0]

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _store(self, is_master: bool) -> TCPStore:
        return TCPStore(
            self.host,
            self.port,
            self.card.world_size,
            is_master=is_master,
            timeout=timedelta(seconds=self.limit_s),
            wait_for_workers=False,
        )

    def _prefixed(self, store: Store) -> Store:
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"spacescale/{restart}", store)

    # ---- Meeting in it ---------------------------------------------------------------------------

    def _check_in(self, store: Store) -> None:
        mine = self.card
        if mine.rank != 0:
            self._wait(lambda: store.check([_key(0)]), lambda: f"rank 0 at {self.place}")
            first = _read(store, 0)
            if of_other_runs(mine, first):
                raise NotMet(f"{mine} reached another run at {self.place}, {first}: {OTHER_PORT}")
            if mine.world_size != first.world_size:
                self._conflict(store, f"{mine} and {first} disagree on WORLD_SIZE")
        text = json.dumps(asdict(mine))
        if store.compare_set(_key(mine.rank), "", text).decode() != text:
            other = _read(store, mine.rank)
            self._conflict(
                store, f"{mine} and process {other.pid} on {other.host} have the same RANK"
            )
        store.add("arrived", 1)

    def _conflict(self, store: Store, text: str) -> NoReturn:
        """Refuse; rank 0 too, unless its run is complete without this rank."""
        text += (
            f" at {self.place}. Either the ranks are numbered wrongly, or two runs share the "
            f"port: {OTHER_PORT}"
        )
        if not store.check(["all"]):
            store.set("end", text)
        raise NotMet(text)

    def _wait_for_all(self, store: Store) -> None:
        size, is_host = self.card.world_size, self.card.rank == 0

        def all_here() -> bool:
            if is_host and store.add("arrived", 0) == size:
                store.set("all", "1")
            if store.check(["all"]):
                return True
            if store.check(["end"]):
                raise UserError(store.get("end").decode())
            return False

        try:
            self._wait(all_here, lambda: self._missing(store), speaks=is_host)
        except UserError as error:
            if is_host:
                store.set("end", str(error))
                time.sleep(REFUSAL_STAYS_S)
            raise

    def _missing(self, store: Store) -> str:
        size = self.card.world_size
        here = [rank for rank in range(size) if store.check([_key(rank)])]
        away = [str(rank) for rank in range(size) if rank not in set(here)]
        hosts = list(dict.fromkeys(_read(store, rank).host for rank in here))
        return (
            f"{len(away)} of {size} processes at {self.place}: rank{'s' * (len(away) > 1)} "
            f"{_shorten(away)} ({self.source}; here are processes on {_shorten(hosts)})"
        )

    # ---- Waiting ---------------------------------------------------------------------------------

    def _wait(
        self, done: Callable[[], bool], missing: Callable[[], str], speaks: bool = True
    ) -> None:
        """Wait until `done()`; say what is missing now and then, NotMet after the limit."""
        while not done():
            waited = time.monotonic() - self.start
            if waited > self.limit_s:
                raise NotMet(
                    f"gave up waiting for {missing()} after {waited:.0f} s "
                    "(run.start_timeout_s). Left over from an earlier shell or job? "
                    "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT"
                )
            if waited > self.next_report and speaks:
                self.next_report = waited + REPORT_EVERY_S
                print(
                    f"rank {self.card.rank}: waiting for {missing()}, {waited:.0f} s so far, "
                    f"gives up after {self.limit_s:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(min(POLL_S, 0.05 + waited / 10))


def meet(source: str, limit_s: float) -> Store:
    """Wait for all ranks, at most limit_s seconds; returns the store they share.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set; `source` says by whom. Raises NotMet: a
    rank that does not come, a port that is taken, ranks that disagree or belong to another run.
    """
    return Meeting(source, limit_s).run()


def _key(rank: int) -> str:
    return f"card/{rank}"


def _read(store: Store, rank: int) -> Card:
    return Card(**json.loads(store.get(_key(rank))))


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
