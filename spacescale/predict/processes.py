"""Objects that live in a process of their own: predictors on several devices, and writers of files
by libraries that end the process where the disk is full.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from spacescale.errors import UserError


class ProcessDied(Exception):
    """A process has ended without an answer, as it does for lack of memory."""


class Remote:
    """An object in a process of its own, of which one method at a time is called.

    The process ends with the block, and with this process.
    """

    def __init__(self, make: Callable[..., Any], *args: Any):
        """make: a class or function of a module, called there with what can be pickled."""
        # PyTorch's threads may be running here: no fork
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *args: Any) -> None:
        """Start a method; its `answer` is to be taken before the next call."""
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer says why
            self._connection.send((method, args))

    def answer(self) -> Any:
        """Wait for what the method returns.

        Raises UserError as it did, RuntimeError for whatever else it raised, and ProcessDied.
        """
        try:
            problem, found = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise ProcessDied from None
        if problem is not None:
            raise problem
        return found

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._connection.close()
        if kind is not None:
            self._process.terminate()
        self._process.join()


def _serve(connection: Connection, make: Callable[..., Any], args: Sequence[Any]) -> None:
    """Make the object, and call its methods until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other's to handle
    try:
        made = make(*args)
        while True:
            method, method_args = connection.recv()
            connection.send((None, getattr(made, method)(*method_args)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        connection.send((error, None))
    except Exception:
        connection.send((RuntimeError(traceback.format_exc()), None))
