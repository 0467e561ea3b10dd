"""The door to the packages of the extra `tasks`, which nothing else of spacescale needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spacescale.errors import UserError


@contextmanager
def tasks_extra() -> Iterator[None]:
    """Import within it; a package that is missing raises UserError with the cure."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"tasks need {error.name}: pip install 'spacescale[tasks]' ({error})"
        ) from error
