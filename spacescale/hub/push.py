"""Put a folder for the Hub there: in one commit, or not at all."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from spacescale.errors import UserError
from spacescale.files import files_below
from spacescale.hub.sources import CONFIGURATION, MODELING
from spacescale.model.exports import SHARD_INDEX, read_export, reason_of_the_hub
from spacescale.model.proof import PROOF_FILE
from spacescale.model.space import Space

# What an older push may have left there that this one lacks, and a loader would read.
REPLACED = ("*.safetensors", SHARD_INDEX, "pytorch_model*.bin", "tracks/*.tsv")


def check_name(name: str) -> None:
    """Raise UserError where a name cannot be one of the Hub's, or its library is not installed."""
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        raise UserError(
            f"--push {name}: needs huggingface_hub: pip install 'spacescale[hub]'"
        ) from None
    if not re.fullmatch(r"[^/]+/[^/]+", name):
        raise UserError(f"--push {name!r}: expected ORG/NAME, a name on the Hub")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push {name!r}: {error}") from None


def is_for_the_hub(folder: Path) -> bool:
    """Whether a folder holds what `convert --to hub` adds to an export."""
    return (folder / MODELING).is_file()


def push(folder: Path, name: str, private: bool = False, revision: str | None = None) -> str:
    """Make what a folder holds the content of the repository ORG/NAME; returns the commit's URL.

    The repository, and the branch `revision` (default: main), are made if they are not there; the
    library's own login counts. Weights and tables of tracks that are there and not here vanish with
    the same commit. Raises UserError for a folder that is not whole or does not prove itself, for a
    public repository where it is to be private, and where the Hub cannot be reached or refuses;
    what was made for this push is then removed, and the message says what is there.
    """
    check_name(name)
    check_folder(folder)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    files = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    target = _Target(HfApi(), name, revision)
    try:
        there = target.made(private)
        # upload_folder of huggingface_hub 2 commits a large folder in several parts.
        commit = target.api.create_commit(
            name,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(
                    CommitOperationDelete(name)
                    for name in sorted(there - files.keys())
                    if any(fnmatch(name, pattern) for pattern in REPLACED)
                ),
            ],
            commit_message="Weights, code, proof and card of a SPACE model",
            revision=revision,
            parent_commit=target.head,  # else another push in the meantime would be mixed with this
        )
    except BaseException as error:
        left = target.undone()
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        # of whatever the library and the network may raise
        reason = reason_of_the_hub(error)
        raise UserError(f"{name}: not pushed: {reason}; {left}. {folder} is whole") from None
    return commit.commit_url


def check_folder(folder: Path) -> None:
    """Raise UserError unless a folder is whole and its weights prove themselves."""
    config = read_export(folder)
    for name in (CONFIGURATION, MODELING, PROOF_FILE, "README.md"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; `convert --to hub` writes it")
    code = hashlib.sha256((folder / MODELING).read_bytes()).hexdigest()
    if code != config.get("code_sha256"):
        raise UserError(
            f"{folder / MODELING}: sha256 {code[:12]}…, not the {config.get('code_sha256')} of "
            "config.json: it was changed"
        )
    Space.from_pretrained(folder)


class _Target:
    """A repository and its branch, and what of them a push has made."""

    def __init__(self, api: Any, name: str, revision: str | None):
        self.api, self.name, self.revision = api, name, revision
        self.head: str | None = None  # commit before the push
        self._made_repository = self._made_branch = False

    def made(self, private: bool) -> set[str]:
        """Make what is not there; returns the files that are."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            info = self.api.model_info(self.name)
        except RepositoryNotFoundError:
            self.api.create_repo(self.name, private=private)
            self._made_repository = True
            info = self.api.model_info(self.name)
        if private and not info.private:
            raise UserError(f"{self.name}: is public, and --private was asked for")
        if self.revision is not None:
            try:
                info = self.api.model_info(self.name, revision=self.revision)
            except RevisionNotFoundError:
                self.api.create_branch(self.name, branch=self.revision)
                self._made_branch = True
        self.head = info.sha
        return {file.rfilename for file in info.siblings or ()}

    def undone(self) -> str:
        """Remove what was made, unless a commit came after all; says what is there now."""
        made = self._made_repository or self._made_branch
        try:
            if made or self.head:
                head = self.api.model_info(self.name, revision=self.revision).sha
                if head != self.head:
                    return f"but there is a new commit there, {head}, which may be this one"
            if self._made_repository:
                self.api.delete_repo(self.name)
            elif self._made_branch:
                self.api.delete_branch(self.name, branch=self.revision)
        except Exception:  # most often the network, which is why this is needed
            what = "repository" if self._made_repository else "branch"
            rest = f"a {what} without these files may be left there" if made else "look there"
            return f"what is there now could not be seen: {rest}"
        return "nothing of it is there"
