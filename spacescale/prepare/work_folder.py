"""The hidden folder in which a dataset is made, so that a killed run can go on where it stood."""

import errno
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np

from spacescale.dataset.schema import FORMAT_VERSION
from spacescale.errors import UserError
from spacescale.files import is_stray, made_parents, make_folder, sync, write_json, write_text
from spacescale.prepare.writer import create_group, created_with

_LOCK = "lock"
_NOT_IN_REQUEST = ("out", "overwrite", "workers", "splits")


@dataclass(frozen=True)
class WorkFolder:
    """`.NAME.partial` beside the dataset's final place; can be sent to other processes.

    dataset: what will become the dataset. request.json: what it is made from. plan: written when
    contigs and windows are settled. scratch: the targets, see `scratch.Scratch`. codes: base codes
    of contigs; case: their letter case. parts/N.json: what reading part N told, a track or a block
    of records; written when its targets are safely on disk. shards/N.json: size and SHA-256 of
    shard N, when it is.
    """

    path: Path

    @classmethod
    def of(cls, target: Path) -> "WorkFolder":
        """Return where the dataset `target` is made."""
        return cls(target.with_name(f".{target.name}.partial"))

    @property
    def dataset(self) -> Path:
        """The dataset, as far as it is written."""
        return self.path / "dataset"

    @property
    def request(self) -> Path:
        """What the dataset is made from, see `request_of`."""
        return self.path / "request.json"

    @property
    def plan(self) -> Path:
        """The plan: the first step is done when it is there."""
        return self.path / "plan"

    @property
    def scratch(self) -> Path:
        """The targets, see `scratch.Scratch`."""
        return self.path / "scratch"

    @property
    def codes(self) -> Path:
        """Base codes of contigs, uint8, one contig after another."""
        return self.path / "codes"

    @property
    def case(self) -> Path:
        """Letter case of the contigs, a bit a base, each contig from a new byte on."""
        return self.path / "case"

    def part(self, index: int) -> Path:
        """What reading a part told; there when its targets are."""
        return self.path / "parts" / f"{index}.json"

    def shard(self, index: int) -> Path:
        """Size and SHA-256 of a shard; there when the shard is."""
        return self.path / "shards" / f"{index}.json"

    def begin(self) -> None:
        """Make an empty dataset, and the folders of marks."""
        shutil.rmtree(self.dataset, ignore_errors=True)
        self.dataset.mkdir()
        create_group(self.dataset)
        for folder in (self.part(0).parent, self.shard(0).parent):
            folder.mkdir(exist_ok=True)

    def save_plan(self, text: bytes, arrays: Mapping[str, np.ndarray]) -> None:
        """Force all that was written onto the disk, then mark the first step as done.

        text: JSON. arrays: what is long, such as the windows, as workers load it for every part.
        """
        sync(self.path)
        content = BytesIO()
        np.savez(content, allow_pickle=False, json=np.frombuffer(text, dtype=np.uint8), **arrays)
        write_text(self.plan, content.getvalue())

    def load_plan(self) -> tuple[bytes, dict[str, np.ndarray]]:
        """Return what `save_plan` was given; UserError where the file holds anything else."""
        try:
            with np.load(self.plan, allow_pickle=False) as stored:
                arrays = dict(stored)
            return arrays.pop("json").tobytes(), arrays
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise UserError(
                f"{self.plan}: damaged, or of another version of spacescale ({error}); delete "
                f"{self.path} to begin anew"
            ) from error

    def how_to_go_on(self) -> str:
        """Say what the user can do after an interruption."""
        if not self.path.is_dir():
            return "nothing kept"
        return f"the same command continues, or delete {self.path}"

    def clear(self) -> None:
        """Remove everything but the lock."""
        # First of all: a run killed on the way must not leave marks whose data are gone.
        self.request.unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def remove(self) -> None:
        """Remove the folder."""
        self.clear()
        shutil.rmtree(self.path)


@contextmanager
def locked_exclusively(
    work: WorkFolder, request: Mapping[str, str], overwrite: bool = False, keep: bool = False
) -> Iterator[None]:
    """Lock the work folder for this process alone, new or as a run with this request left it.

    What a run with another request left is cleared if `overwrite`, else refused. An error in the
    input (UserError) removes the folder; anything else keeps it for the next run. keep: what
    earlier stages did is neither cleared nor removed. Raises UserError when another run has it, or
    the parent cannot be written.
    """
    with made_parents(work.path), _locked(work, shared=False), _full_disk_explained(work):
        anew = overwrite and not keep
        if _holds_no_progress(work) or (anew and _difference(work, request) is not None):
            work.clear()
            write_json(work.request, request)
        _refuse_other_request(work, request)
        try:
            yield
        except UserError:
            if not keep:
                work.remove()
            raise


@contextmanager
def _full_disk_explained(work: WorkFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{work.path.parent}: {error.strerror}; make room and run the same command again, it "
            f"continues. Or delete {work.path}"
        ) from error


def _holds_no_progress(work: WorkFolder) -> bool:
    """Whether the folder is new, or left by a run killed at its very beginning or end."""
    return not work.request.is_file() or (work.plan.is_file() and not work.dataset.is_dir())


@contextmanager
def locked_shared(work: WorkFolder, request: Mapping[str, str]) -> Iterator[None]:
    """Lock a work folder that is prepared already, for several processes at once.

    Raises UserError when it was prepared from other inputs, or is locked by one process.
    """
    with _locked(work, shared=True), _full_disk_explained(work):
        _refuse_other_request(work, request)
        yield


@contextmanager
def _locked(work: WorkFolder, shared: bool) -> Iterator[None]:
    file = _lock(work, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        file.close()
        # A folder that never held anything goes; one with work in it stays.
        if work.path.is_dir() and _names_in(work.path) == [_LOCK]:
            shutil.rmtree(work.path)


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not is_stray(PurePath(path.name))]


def _lock(work: WorkFolder, kind: int) -> IO[bytes]:
    while True:
        make_folder(work.path)
        try:
            # For both: on NFS a shared lock needs reading, an exclusive one writing.
            file = (work.path / _LOCK).open("a+b")
        except FileNotFoundError:  # a run that ended just now has removed the folder
            continue
        except OSError as error:
            raise UserError(f"cannot write into {work.path}: {error.strerror}") from error
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"{work.path}: another run is writing this dataset; wait for it or end it"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{work.path} cannot be locked ({error.strerror}): make sure that no second run "
                "writes this dataset",
                stacklevel=2,
            )
            return file
        # A run that ended just now may have removed the file that was opened.
        path = Path(file.name)
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


def request_of(settings: Mapping[str, Any], files: Iterable[Path]) -> dict[str, str]:
    """Return what decides the bytes of a dataset, each under a name a user understands.

    The settings, the versions, and size and time of change of every input file: of `files`, and of
    those that settings name. Two runs may continue each other when these are equal.
    """
    request = {"format version": str(FORMAT_VERSION)}
    request |= {f"version of {name}": text for name, text in created_with().items()}
    files = list(files)
    for name, value in settings.items():
        if name in _NOT_IN_REQUEST:
            continue
        if isinstance(value, Path) or (name == "aliases" and value not in (None, "auto")):
            value = Path(value).absolute()
            files.append(value)
        request[name] = str(value)
    return request | {f"file {path}": _state_of(path) for path in files}


def _state_of(path: Path) -> str:
    if not path.is_file():
        return "not there"
    state = path.stat()
    return f"{state.st_size} bytes, changed at {state.st_mtime_ns} ns"


def refuse_changed_inputs(work: WorkFolder, request: Mapping[str, str]) -> None:
    """Raise UserError when an input file is no longer what it was when the work began."""
    if name := _difference(work, request):
        raise UserError(f"{name} changed while the dataset was made: run the command again")


def _difference(work: WorkFolder, request: Mapping[str, str]) -> str | None:
    """Return the first name under which the request of the folder and this one differ."""
    begun = json.loads(work.request.read_text(encoding="utf-8"))
    names = [*begun, *(name for name in request if name not in begun)]
    return next((name for name in names if begun.get(name) != request.get(name)), None)


def _refuse_other_request(work: WorkFolder, request: Mapping[str, str]) -> None:
    name = _difference(work, request)
    if name is None:
        return
    begun = json.loads(work.request.read_text(encoding="utf-8"))
    raise UserError(
        f"{work.path} was begun with {name}: {begun.get(name, 'nothing')}, now it is "
        f"{request.get(name, 'nothing')}; give what was given before, or add --overwrite to begin "
        "anew"
    )
