"""Files of species as commands take them: NAME=FILE and NAME:NAME=FILE."""

from collections.abc import Sequence
from pathlib import Path

from spacescale.errors import UserError


def named_paths(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Read NAME=FILE texts; UserError names the option for other texts and for repeated names."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"{option} {text}: expected NAME=FILE")
        if name in found:
            raise UserError(f"{option} names {name!r} twice")
        found[name] = Path(path)
    return found


def homology_files(texts: Sequence[str]) -> list[tuple[str, str, Path]]:
    """Read NAME:NAME=FILE texts as (species, species, file); UserError for other texts."""
    found = []
    for text in texts:
        names, _, path = text.partition("=")
        first, _, second = names.partition(":")
        if not (first and second and path):
            raise UserError(f"--homology {text}: expected NAME:NAME=FILE")
        found.append((first, second, Path(path)))
    return found
