"""Windows predicted one batch after another, here or by several processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from spacescale.errors import UserError
from spacescale.predict.predictor import Precision, Predictor
from spacescale.predict.processes import ProcessDied, Remote

Key = TypeVar("Key")
Call = tuple[str, tuple[Any, ...]]  # a method of the predictor, its arguments behind the windows


class Pool:
    """A predictor, and its copies in processes of their own, if there are some."""

    def __init__(self, predictor: Predictor, copies: Sequence[Remote] = ()):
        self.predictor, self.copies = predictor, copies

    def answers(
        self, work: Iterable[tuple[Key, np.ndarray, Call]]
    ) -> Iterator[tuple[Key, np.ndarray]]:
        """Yield each key of `work` with what a predictor answers, in their order.

        work: key, windows uint8 (B, L) and what is asked of them. As many batches are under way as
        there are copies. Raises UserError as the predictor does, and where a process dies.
        """
        if not self.copies:
            for key, codes, (method, args) in work:
                yield key, getattr(self.predictor, method)(codes, *args)
            return
        under_way: deque[tuple[Key, Remote]] = deque()
        for number, (key, codes, (method, args)) in enumerate(work):
            if len(under_way) == len(self.copies):
                yield self._first(under_way)
            copy = self.copies[number % len(self.copies)]
            copy.call(method, codes, *args)
            under_way.append((key, copy))
        while under_way:
            yield self._first(under_way)

    @staticmethod
    def _first(under_way: deque[tuple[Key, Remote]]) -> tuple[Key, np.ndarray]:
        key, copy = under_way.popleft()
        try:
            return key, copy.answer()
        except ProcessDied:
            raise UserError(
                "a process that predicts died; was it ended for lack of memory? Take fewer by "
                "--jobs, or a smaller --batch"
            ) from None


@contextmanager
def pool_on(predictor: Predictor, devices: Sequence[str]) -> Iterator[Pool]:
    """Give a pool: a copy of the predictor on each device, the predictor itself where none is named

    Copies on CPUs share the threads that PyTorch uses here. What a copy predicts does not depend on
    how many there are, but for the rounding that another number of threads brings.
    """
    threads = max(torch.get_num_threads() // max(len(devices), 1), 1)
    source, species = predictor.trained.source, predictor.species
    with ExitStack() as stack:
        copies = [
            stack.enter_context(
                Remote(
                    load_copy, source, species, device, predictor.precision, predictor.batch_size,
                    threads,
                )
            )
            for device in devices
        ]  # fmt: skip
        yield Pool(predictor, copies)


def load_copy(
    source: Path, species: str, device: str, precision: Precision, batch_size: int, threads: int
) -> Predictor:
    """Load a predictor in a process of its own."""
    torch.set_num_threads(threads)
    return Predictor.load(source, species, device, precision, batch_size)
