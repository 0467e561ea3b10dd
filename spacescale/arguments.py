"""Names and files as commands take them: A,B, FILE, NAME=FILE and NAME:NAME=FILE."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from spacescale.errors import UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has merged the two slashes


def listed_names(text: str) -> tuple[str, ...]:
    """Return the names of `A,B` or `A, B`."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def given_path(text: str) -> Path:
    """Return the file that a text names, `~` being the home folder; UserError for a URL."""
    if _URL.match(text):
        raise UserError(
            f"{text} is a URL; only files of this machine are read and written: download it first"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: {error}") from error


def path_option(text: str) -> Path:
    """Return `given_path` of an option's value, its error being one of argparse."""
    try:
        return given_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named_paths(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Read NAME=FILE texts; UserError names the option for other texts and for repeated names."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"{option} {text}: expected NAME=FILE")
        if name in found:
            raise UserError(f"{option} names {name!r} twice")
        found[name] = given_path(path)
    return found


def homology_files(texts: Sequence[str]) -> list[tuple[str, str, Path]]:
    """Read NAME:NAME=FILE texts as (species, species, file); UserError for other texts."""
    found = []
    for text in texts:
        names, _, path = text.partition("=")
        first, _, second = names.partition(":")
        if not (first and second and path):
            raise UserError(f"--homology {text}: expected NAME:NAME=FILE")
        found.append((first, second, given_path(path)))
    return found
