"""What a folder for the Hub holds: this is written, pushed and replaced there, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from spacescale.files import files_below
from spacescale.hub.sources import CODES
from spacescale.model.exports import SAFETENSORS, SHARD_INDEX
from spacescale.model.proof_file import PROOF_FILE

WEIGHTS = (SAFETENSORS, "model-?????-of-?????.safetensors", SHARD_INDEX)
TRACKS = ("tracks/*.tsv",)
VOCABULARY = ("vocabulary/vocabulary.json",)
EXPORTED = (*WEIGHTS, *TRACKS, *VOCABULARY, "config.json")  # by `convert` alone
CONTENTS = (
    *EXPORTED, *(name for code in CODES for name in (code.configuration, code.modeling)),
    PROOF_FILE, "README.md", "LICENSE", "figures/*.png",
)  # fmt: skip
# What an older push may have left there that this one lacks, and a loader would read.
REPLACED = (*WEIGHTS, *TRACKS)


def is_among(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path in a repository, `/` between its parts, fits a pattern; no `*` crosses a /."""
    return any(
        name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns
    )


def named_files(folder: Path) -> dict[str, Path]:
    """All files below a folder by their names in a repository; stray ones left out."""
    return {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
