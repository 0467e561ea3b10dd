"""Standard output and error on any terminal, pipe or file: every character, closed pipes too.

And tables for them.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO

from spacescale.errors import UserError

PIPE_CLOSED = 141  # exit status of a command whose reader has gone: 128 + SIGPIPE
INTERRUPTED, TERMINATED = 130, 143


class _Descriptor(io.RawIOBase):
    """Writes to a file descriptor; once that fails, all that follows goes nowhere."""

    def __init__(self, descriptor: int, goes_on: bool) -> None:
        self._descriptor, self._goes_on = descriptor, goes_on

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor)  # for what C++ code and child processes write, too
            os.close(nowhere)
            if not self._goes_on:
                if isinstance(error, BrokenPipeError):
                    sys.exit(PIPE_CLOSED)
                raise UserError(f"cannot write the output: {error.strerror}") from None
        return len(data)

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another program made the terminal non-blocking
            select.select([], [self._descriptor], [])
            return 0


def prepare(goes_on: bool) -> None:
    """Make standard output and error fit for any console; call it before anything is written.

    Characters that the console's encoding lacks are written as escapes. Where the reader of a pipe
    is gone, or a terminal or disk: goes_on drops what is written from then on; otherwise a closed
    pipe ends the command quietly, by SystemExit, and anything else is a UserError.
    """
    sys.stdout = _prepared(sys.stdout, sys.__stdout__, goes_on)
    sys.stderr = _prepared(sys.stderr, sys.__stderr__, goes_on)


def _prepared(stream: IO[str] | None, original: IO[str] | None, goes_on: bool) -> IO[str]:
    if stream is None:  # the command was started with it closed
        return Path(os.devnull).open("w", encoding="utf-8")
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody captures it
    raw = _Descriptor(stream.fileno(), goes_on)
    unbuffered = stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=unbuffered,
    )


def run(command: Callable[[], int], goes_on: bool = False, interrupted: str = "interrupted") -> int:
    """Run a command on a prepared console; returns its exit status.

    That is 2 after a UserError, whose message goes to stderr as a line "error: …", and 130 after
    Ctrl-C, of which `interrupted` says what it means for the work under way. SIGTERM ends it by
    SystemExit with 143, so that nothing half-written stays; a command may heed it in its own way.
    goes_on: its work, such as a dataset, is wanted even where nobody reads what it says.
    """
    prepare(goes_on)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED


def aligned(rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Return the rows as lines of columns; the columns of `left` begin, all others end together.

    left: numbers of columns, -1 for the last. A row may lack its last cells.
    """
    columns = list(zip_longest(*rows, fillvalue=""))
    at_left = {place % len(columns) for place in left}
    padded = []
    for place, column in enumerate(columns):
        width, put = max(map(len, column)), str.ljust if place in at_left else str.rjust
        padded.append([put(cell, width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
