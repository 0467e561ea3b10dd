"""What an option of `spacescale suite` says of each task: PATTERN=WORD, and WORD of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from spacescale.errors import UserError


def words_by_task(
    option: str, texts: Sequence[str] | None, tasks: Sequence[str]
) -> dict[str, str | None]:
    """The word of each task: of the first pattern that its name fits, else the bare one, or None.

    Raises UserError for a pattern that fits no task, for two bare words, and for half a text.
    """
    patterns: list[tuple[str, str]] = []
    bare: str | None = None
    for text in texts or ():
        pattern, equals, word = text.rpartition("=")
        if not word or (equals and not pattern):
            raise UserError(f"{option} {text}: expected SPECIES, or PATTERN=SPECIES")
        if not equals and bare is not None:
            raise UserError(
                f"{option} {text}: {bare} is that of all other tasks already; expected "
                "PATTERN=SPECIES"
            )
        if not equals:
            bare = word
            continue
        if not any(fnmatchcase(name, pattern) for name in tasks):
            raise UserError(f"{option} {text}: fits none of the tasks {', '.join(tasks)}")
        patterns.append((pattern, word))
    return {
        name: next((word for pattern, word in patterns if fnmatchcase(name, pattern)), bare)
        for name in tasks
    }
