"""Data of a run that is never read: for tests of what keeps only its identity."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any


def no_data(species: Iterable[str]) -> Any:
    """A RunData without data sets, of species without tracks."""
    names = list(species)
    return SimpleNamespace(
        tracks={name: [] for name in names},
        manifest_hashes=dict.fromkeys(names, ""),
        split_hashes=dict.fromkeys(names, ""),
        transforms=dict.fromkeys(names, ""),
        contigs={name: {} for name in names},
    )
