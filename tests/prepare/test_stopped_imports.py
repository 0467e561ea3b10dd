"""An import by several processes, or stopped and continued, ends like one that was neither."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from imported_sets import BIN_SIZE, SmallSet, small_set, write_basenji, write_fasta, write_hdf5
from stops import stop_at_second_mark

from spacescale.errors import UserError
from spacescale.prepare.importers import space_hdf5
from spacescale.prepare.importers.basenji import BasenjiSet
from spacescale.prepare.importers.import_dataset import ImportOptions, import_dataset
from spacescale.prepare.importers.source import ImportSource
from spacescale.prepare.importers.space_hdf5 import SpaceHdf5

pytestmark = pytest.mark.long

IMPORT = "spacescale.prepare.importers.import_dataset"
SHARDS = "spacescale.prepare.shards"
WORK = "spacescale.prepare.work_folder"
MARK_WRITERS = (
    f"{WORK}.write_json",
    f"{WORK}.write_text",
    f"{IMPORT}.write_json",
    f"{SHARDS}.write_json",
)


class Killed(BaseException):
    """As kill -9: nobody handles it."""


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def raising(error):
    def stop(*_, **__):
        raise error

    return stop


def with_nan_and_twins() -> SmallSet:
    small = small_set()
    small.places[5] = ("chr1", 20, "train")  # not at the edge, for HDF5's BED
    small.targets[1, 3, 1] = np.nan
    small.targets[7] = np.nan
    margin = 16
    train, test = slice(100 - margin, 132 + margin), slice(200 - margin, 232 + margin)
    small.genome["chr2"][test] = small.genome["chr1"][train]
    return small


def tfrecords(folder: Path) -> tuple[Path, ImportSource]:
    folder = write_basenji(folder, with_nan_and_twins())
    return folder, BasenjiSet(folder)


def tfrecords_with_genome(folder: Path) -> tuple[Path, ImportSource]:
    small = with_nan_and_twins()
    folder = write_basenji(folder, small)
    write_fasta(folder / "genome.fa", small.genome)
    return folder, BasenjiSet(folder)


def hdf5(folder: Path) -> tuple[Path, ImportSource]:
    files = write_hdf5(folder, with_nan_and_twins())
    for path in files.values():  # one row a chunk, so that a file can be more than one block
        with h5py.File(path, "r+") as file:
            for name, values in [(name, file[name][:]) for name in file]:
                del file[name]
                file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]))
    return folder, SpaceHdf5(files, BIN_SIZE)


@pytest.fixture(params=[tfrecords, tfrecords_with_genome, hdf5], ids=lambda make: make.__name__)
def given(request, tmp_path):
    return request.param(tmp_path / "set")


def make(given: tuple[Path, ImportSource], out: Path, notify=lambda _: None, **changes) -> Path:
    folder, source = given
    genome = folder / "genome.fa"
    settings = {
        "species": "tiny",
        "targets": folder / "targets.txt",
        "windows": folder / "sequences.bed",
        "fasta": genome if genome.is_file() else None,
        "out": out,
        "missing": "nan",
        "windows_per_shard": 3,
    }
    return import_dataset(ImportOptions(**(settings | changes)), source, notify)


@pytest.mark.parametrize("moment", ["after a mark", "before the next"])
def test_an_import_killed_at_every_mark_ends_like_one_that_was_not(
    given, tmp_path, monkeypatch, moment
):
    """Each run gets one mark further than the one before: request, plan, blocks, shards."""
    monkeypatch.setattr(space_hdf5, "_BLOCK_ROWS", 2)
    whole = contents(make(given, tmp_path / "whole"))
    kills = 0
    while True:
        with monkeypatch.context() as patch:
            stop_at_second_mark(patch, MARK_WRITERS, moment, Killed)
            try:
                path = make(given, tmp_path / "out")
                break
            except Killed:
                kills += 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".tiny.partial"]
    num_blocks = len(given[1].blocks(None))
    assert num_blocks == 5
    marks = 1 + 1 + num_blocks + 3  # request, plan, blocks, shards
    assert kills == (marks if moment == "after a mark" else marks - 1)
    assert contents(path) == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny"]


STEPS = {
    tfrecords: [f"{IMPORT}.create_pieces"],
    tfrecords_with_genome: [f"{IMPORT}.read_genome", f"{IMPORT}.open_codes"],
    hdf5: [f"{IMPORT}.sync", f"{SHARDS}.write_targets_shard", f"{IMPORT}.write_sequence",
           f"{SHARDS}.write_manifest", f"{SHARDS}.put_in_place"],
}  # fmt: skip


@pytest.mark.parametrize("kind, step", [(kind, step) for kind in STEPS for step in STEPS[kind]])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(errno.EIO, "broken")])
def test_an_import_stopped_between_marks_goes_on(tmp_path, monkeypatch, kind, step, fault):
    given = kind(tmp_path / "set")
    whole = contents(make(given, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(step, raising(fault))
        with pytest.raises((KeyboardInterrupt, OSError)):
            make(given, tmp_path / "out")
    assert contents(make(given, tmp_path / "out", overwrite=True)) == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny"]


def test_an_import_stopped_within_a_block_reads_that_block_again(tmp_path, monkeypatch):
    """Of the block some targets and bases are there already; they must not count twice."""
    given = tfrecords(tmp_path / "set")
    whole = contents(make(given, tmp_path / "whole"))
    records, seen = BasenjiSet.records, []

    def stopping(self, block):
        for record in records(self, block):
            seen.append(record.place)
            if len(seen) == 4:
                raise KeyboardInterrupt
            yield record

    with monkeypatch.context() as patch:
        patch.setattr(BasenjiSet, "records", stopping)
        with pytest.raises(KeyboardInterrupt):
            make(given, tmp_path / "out")
        told = []
        path = make(given, tmp_path / "out", told.append)
    assert told == ["continuing: 1 of 5 blocks are read"]
    assert seen[2:4] == seen[4:6] and len(seen) == 2 + 2 + 6
    assert contents(path) == whole


def test_workers_give_the_same_bytes(given, tmp_path):
    whole = contents(make(given, tmp_path / "one"))
    assert contents(make(given, tmp_path / "two", workers=2)) == whole
    assert (
        b"windows hold all the bases" in whole["manifest.json"]
        or given[0].joinpath("genome.fa").is_file()
    )


def test_errors_of_workers_leave_nothing(tmp_path):
    folder, source = tfrecords(tmp_path / "set")
    lines = (folder / "sequences.bed").read_text().splitlines()
    lines[0], lines[1] = lines[1], lines[0]
    (folder / "sequences.bed").write_text("\n".join(lines))
    with pytest.raises(UserError, match="BED of another order"):
        make((folder, source), tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()


def test_other_inputs_are_not_mixed(given, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(f"{SHARDS}.write_targets_shard", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(given, tmp_path / "out")
    with pytest.raises(UserError, match=r"begun with tracks: \(\), now it is \('0', '1'\)"):
        make(given, tmp_path / "out", tracks=("0", "1"))
    os.utime(given[1].files[-1], (1, 1))
    with pytest.raises(UserError, match=r"begun with file .*bytes, changed at"):
        make(given, tmp_path / "out")
    whole = contents(make(given, tmp_path / "whole"))
    assert contents(make(given, tmp_path / "out", overwrite=True)) == whole


def test_files_that_change_during_the_import_are_refused(given, tmp_path, monkeypatch):
    monkeypatch.setattr(
        f"{SHARDS}.write_intervals", lambda *_: os.utime(given[1].files[-1], (1, 1))
    )
    with pytest.raises(UserError, match=r"changed while the dataset was made"):
        make(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_what_is_done(given, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(f"{SHARDS}.write_targets_shard", raising(full))
        with pytest.raises(UserError, match="No space left on device; make room and run the same"):
            make(given, tmp_path / "out")
    told = []
    whole = contents(make(given, tmp_path / "whole"))
    assert contents(make(given, tmp_path / "out", told.append)) == whole
    assert len(told) == 1 and "blocks are read" in told[0]


def test_files_given_for_other_splits_do_not_go_on(tmp_path, monkeypatch):
    """Else the records would keep the splits, and the places, that were given first."""
    small = with_nan_and_twins()
    small.places, small.targets = small.places[:5], small.targets[:5]
    small.places[3] = ("chr1", 260, "valid")
    files = write_hdf5(tmp_path / "set", small)  # two records in train, in valid; one in test
    with monkeypatch.context() as patch:
        patch.setattr(f"{IMPORT}.publish", raising(Killed))
        with pytest.raises(Killed):
            make((tmp_path / "set", SpaceHdf5(files, BIN_SIZE)), tmp_path / "out")
    swapped = files | {"train": files["valid"], "valid": files["train"]}
    other_order = {split: files[split] for split in ("valid", "train", "test")}
    for others in (swapped, other_order, {**other_order, **swapped}):
        with pytest.raises(UserError, match=r"was begun with (imported file 1|records of each)"):
            make((tmp_path / "set", SpaceHdf5(others, BIN_SIZE)), tmp_path / "out")
    make((tmp_path / "set", SpaceHdf5(files, BIN_SIZE)), tmp_path / "out")
