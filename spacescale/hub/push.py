"""Put a folder for the Hub there: in one commit, or not at all."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from spacescale.errors import UserError
from spacescale.hub.contents import CONTENTS, REPLACED, is_among, named_files
from spacescale.hub.sources import CODES, ENCODER, SPACE
from spacescale.model.encoder_export import load_encoder
from spacescale.model.exports import (
    holds_encoder,
    read_encoder_export,
    read_export,
    reason_of_the_hub,
    weight_files,
)
from spacescale.model.proof_file import PROOF_FILE
from spacescale.model.space import Space

NOTHING_LEFT = "nothing of it is there"
LISTED_LEFT_OUT = 5

logger = logging.getLogger(__name__)


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
    return any((folder / code.modeling).is_file() for code in CODES)


def push(folder: Path, name: str, private: bool = False, revision: str | None = None) -> str:
    """Make what a folder holds the content of the repository ORG/NAME; returns the commit's URL.

    Only what `contents.CONTENTS` lists goes up; one line names what is left out. The repository,
    and the branch `revision` (default: main), are made if they are not there; the library's own
    login counts. Weights and tables of tracks, named as ours are, that are there and not here
    vanish with the same commit. Raises UserError for a folder that is not whole or does not prove
    itself, for a public repository where it is to be private, and where the Hub cannot be reached
    or refuses; what was made for this push is then removed, and the message says what is there.
    """
    check_name(name)
    check_folder(folder)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    found = named_files(folder)
    files = {name: path for name, path in found.items() if is_among(name, CONTENTS)}
    if left_out := found.keys() - files.keys():
        logger.warning("%s: not pushed, as no part of it: %s", folder, _listed(left_out))
    target = _Target(HfApi(), name, revision)
    try:
        target.make(private)
        replaced = {name for name in target.files - files.keys() if is_among(name, REPLACED)}
        return target.commit(
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in sorted(replaced)),
            ]
        )
    except BaseException as error:
        left = target.undone()
        if not isinstance(error, Exception):
            raise
        if isinstance(error, UserError):
            raise (error if left == NOTHING_LEFT else UserError(f"{error}; {left}")) from None
        # of whatever the library and the network may raise
        reason = reason_of_the_hub(error)
        raise UserError(f"{name}: not pushed: {reason}; {left}. {folder} is whole") from None


def _listed(names: Collection[str]) -> str:
    more = len(names) - LISTED_LEFT_OUT
    return ", ".join(sorted(names)[:LISTED_LEFT_OUT]) + (f" and {more} more" if more > 0 else "")


def check_folder(folder: Path) -> None:
    """Raise UserError unless a folder is whole and its weights prove themselves."""
    of_tokens = holds_encoder(folder)
    config = read_encoder_export(folder) if of_tokens else read_export(folder)
    code = ENCODER if of_tokens else SPACE
    for name in (code.configuration, code.modeling, PROOF_FILE, "README.md"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; `convert --to hub` writes it")
    for path in weight_files(folder):
        if not is_among(path.relative_to(folder).as_posix(), CONTENTS):
            raise UserError(f"{path}: weights named as `convert --to hub` names none")
    found = hashlib.sha256((folder / code.modeling).read_bytes()).hexdigest()
    if found != config.get("code_sha256"):
        raise UserError(
            f"{folder / code.modeling}: sha256 {found[:12]}…, not the "
            f"{config.get('code_sha256')} of config.json: it was changed"
        )
    load_encoder(folder) if of_tokens else Space.from_pretrained(folder)


class _Target:
    """A repository and its branch, and what of them a push has made or may have made."""

    def __init__(self, api: Any, name: str, revision: str | None):
        self.api, self.name, self.revision = api, name, revision
        self.files: set[str] = set()  # before the push
        self._head: str | None = None  # commit before the push
        self._made: str | None = None  # "repository", with all in it, or "branch"
        self._commit_sent = False

    def make(self, private: bool) -> None:
        """Make what is not there, and look at what is."""
        info = self._look()
        if info is None:
            self._make("repository", self.api.create_repo, private=private)
            info = self.api.model_info(self.name)
        self._head = info.sha
        if private and not info.private:
            raise UserError(f"{self.name}: is public, and --private was asked for")
        if self.revision is not None:
            info = self._look(self.revision)
            if info is None:
                self._make("branch", self.api.create_branch, branch=self.revision)
                info = self.api.model_info(self.name, revision=self.revision)
            self._head = info.sha
        self.files = _files(info)

    def commit(self, operations: list[Any]) -> str:
        """Send the one commit; returns its URL."""
        self._commit_sent = True
        # upload_folder of huggingface_hub 2 commits a large folder in several parts.
        commit = self.api.create_commit(
            self.name,
            operations,
            commit_message="Weights, code, proof and card of a SPACE model",
            revision=self.revision,
            parent_commit=self._head,  # else another push in the meantime would be mixed with this
        )
        return commit.commit_url

    def undone(self) -> str:
        """Remove what was made, if it holds nothing but that; says what is there now."""
        if not self._made and not self._commit_sent:
            return NOTHING_LEFT
        try:
            infos = self._places()
        except Exception:  # most often the network, which is why this is needed
            return f"what is there now could not be seen: {self._possible()}"
        if not infos:
            return NOTHING_LEFT
        for info in infos:
            if not self._is_as_made(info):
                if self._commit_sent:
                    return f"but there is a new commit there, {info.sha}, which may be this one"
                return f"no commit was sent, and the {self._made}, which holds others' files, stays"
        try:
            if self._made == "repository":
                self.api.delete_repo(self.name)
            elif self._made == "branch":
                self.api.delete_branch(self.name, branch=self.revision)
        except Exception:
            return f"it could not be taken back: {self._possible(commit=False)}"
        return NOTHING_LEFT

    def _look(self, revision: str | None = None) -> Any:
        """What is there; None where that is nothing."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return self.api.model_info(self.name, revision=revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    def _make(self, what: str, create: Callable[..., Any], **options: Any) -> None:
        """Make a part of it, which counts as made unless the Hub itself says that it is not."""
        from huggingface_hub.errors import HfHubHTTPError

        before = self._made
        self._made = before or what
        try:
            create(self.name, **options)
        except HfHubHTTPError as error:
            if 400 <= error.response.status_code < 500:  # of other errors the answer may be lost
                self._made = before
            raise

    def _places(self) -> list[Any]:
        """What is there now of all that this push may have changed."""
        places = {self.revision, None} if self._made == "repository" else {self.revision}
        return [info for place in places if (info := self._look(place)) is not None]

    def _is_as_made(self, info: Any) -> bool:
        """Whether it holds nothing that came after, ours or others'."""
        if self._made == "repository":  # the Hub puts that one file there itself
            return _files(info) <= {".gitattributes"}
        return info.sha == self._head

    def _possible(self, commit: bool = True) -> str:
        commit = commit and self._commit_sent
        if not self._made:
            return "its commit may be there"
        rest = f"a {self._made} without these files may be left there"
        return f"{rest}, or this commit" if commit else rest


def _files(info: Any) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}
