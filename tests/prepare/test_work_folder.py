"""What a run that was stopped leaves behind never gets into a dataset."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from small_inputs import small_options, write_inputs

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.prepare.stages import make_dataset, make_stage
from spacescale.prepare.work_folder import WorkFolder, locked_exclusively

SHARDS = "spacescale.prepare.shards"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> dict[str, bytes]:
    return contents(make_dataset(small_options(inputs, tmp_path_factory.mktemp("whole"))))


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Killed(BaseException):
    """As kill -9: nobody handles it."""


def raising(error):
    def stop(*_, **__):
        raise error

    return stop


def killing_after(number: int):
    """Return an os.unlink that ends the run instead of removing more files than that."""
    removals, unlink = [], os.unlink

    def stop(*arguments, **named):
        removals.append(arguments)
        if len(removals) > number:
            raise Killed
        unlink(*arguments, **named)

    return stop


# Every second file will do: in which order they go is up to the file system.
REMOVED = range(0, 100, 2)


@pytest.mark.parametrize("input_is_bad", [False, True])
def test_a_run_killed_while_it_removes_its_folder_leaves_nothing_to_mistake(
    inputs, whole, tmp_path, monkeypatch, input_is_bad
):
    """Marks without their data would make zeros of tracks, or leave shards out."""
    options = small_options(inputs, tmp_path)
    for number in REMOVED:
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", killing_after(number))
            if input_is_bad:
                patch.setattr(f"{SHARDS}.write_manifest", raising(UserError("bad")))
            try:
                make_dataset(options)
            except Killed:
                killed = True
            except UserError:
                killed = False
            else:
                killed = False
        if not killed:
            break
        shutil.rmtree(tmp_path / "tiny", ignore_errors=True)
        assert contents(make_dataset(options)) == whole
        shutil.rmtree(tmp_path / "tiny")
    assert number > 5 and not killed


def test_a_run_killed_while_it_begins_anew_leaves_nothing_to_mistake(
    inputs, whole, tmp_path, monkeypatch
):
    options = small_options(inputs, tmp_path)
    other = small_options(inputs, tmp_path, stride=64, overwrite=True)
    for number in REMOVED:
        with monkeypatch.context() as patch:
            patch.setattr(f"{SHARDS}.write_manifest", raising(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                make_dataset(options)
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", killing_after(number))
            with pytest.raises(Killed):
                make_dataset(other)
        request = WorkFolder.of(options.target).request
        if request.is_file() and '"stride": "64"' in request.read_text():
            break  # the removal was over
        assert contents(make_dataset(options)) == whole
        shutil.rmtree(tmp_path / "tiny")
    assert 5 < number < REMOVED[-1]


def test_a_half_written_manifest_is_no_part_of_the_dataset(inputs, whole, tmp_path, monkeypatch):
    stop = raising(OSError(errno.EIO, "broken"))
    options = small_options(inputs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"{SHARDS}.write_intervals", lambda *_: patch.setattr(Path, "replace", stop))
        with pytest.raises(OSError, match="broken"):
            make_dataset(options)
    (
        WorkFolder.of(options.target).dataset / ".manifest.json.1.partial"
    ).touch()  # as a kill leaves it
    assert contents(make_dataset(options)) == whole


@pytest.mark.parametrize("fault", ["missing", "shorter"])
def test_a_marked_shard_that_is_not_there_is_written_again(
    inputs, whole, tmp_path, monkeypatch, fault
):
    """After a power failure a mark may be on the disk that its shard has not reached."""
    options = small_options(inputs, tmp_path)
    make_stage(options, "prepare")
    make_stage(options, "tracks")
    make_stage(options, "shards")
    file = WorkFolder.of(options.target).dataset / "targets/c/2/0/0"
    file.unlink() if fault == "missing" else os.truncate(file, 10)
    with pytest.raises(UserError, match="1 of 4 shards are not written; run --stage shards"):
        make_stage(options, "finish")
    assert contents(make_dataset(options)) == whole


def test_the_lock_is_open_for_reading_too(tmp_path, monkeypatch):
    """On NFS a shared lock needs that, an exclusive one that it is open for writing."""
    modes = []
    monkeypatch.setattr(
        "spacescale.prepare.work_folder.fcntl.flock",
        lambda file, _: modes.append((file.readable(), file.writable())),
    )
    with locked_exclusively(WorkFolder(tmp_path / "work"), {}):
        assert modes == [(True, True)]


def test_inputs_that_change_during_the_run_are_refused(tmp_path, monkeypatch):
    write_inputs(tmp_path / "in")
    options = small_options(tmp_path / "in", tmp_path / "out")
    monkeypatch.setattr(
        f"{SHARDS}.write_intervals", lambda *_: os.utime(tmp_path / "in/genome.fa", (1, 1))
    )
    with pytest.raises(UserError, match=r"genome.fa changed while the dataset was made"):
        make_dataset(options)
    assert not (tmp_path / "out/tiny").exists()


def test_a_later_stage_never_clears_what_earlier_ones_did(inputs, whole, tmp_path):
    options = small_options(inputs, tmp_path)
    for stage in ("prepare", "tracks", "shards"):
        make_stage(options, stage)
    other = small_options(inputs, tmp_path, stride=64, overwrite=True)
    with pytest.raises(UserError, match="begun with stride: None, now it is 64"):
        make_stage(other, "finish")
    assert contents(make_stage(options, "finish")) == whole
    SpeciesData.open(tmp_path / "tiny").verify()
