import multiprocessing
import os
import pickle
import re
import shutil
import signal
from copy import copy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_datasets import small_targets, write_small_dataset

from spacescale.dataset.augment import flip
from spacescale.dataset.batch import Batch
from spacescale.dataset.loader import (
    BatchesOnDevice,
    TrainingWindows,
    evaluation_batches,
    open_datasets,
    roll_within_chromosomes,
    training_batches,
)
from spacescale.dataset.negative_targets import refuse_negative_tracks
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.errors import UserError
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.stages import make_dataset
from spacescale.splits.options import SplitOptions
from spacescale.testing.simulated_genomes import write_simulated_genomes

SEQ_LENGTH, BINS = 2048, 48


@pytest.fixture(scope="module")
def genomes(tmp_path_factory):
    return write_simulated_genomes(tmp_path_factory.mktemp("genomes"), scale=0.1)


def shard(species, out, **changes):
    options = {"seq_length": SEQ_LENGTH, "bin_size": 32, "target_length": BINS}
    return make_dataset(
        DatasetOptions(
            species=species.name,
            fasta=species.fasta,
            targets=species.targets,
            splits=SplitOptions(contigs=species.contigs),
            out=out,
            **(options | changes),
        )
    )


@pytest.fixture(scope="module")
def folder(genomes, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    for species in genomes:
        shard(species, out)
    return out


@pytest.fixture
def datasets(folder):
    return open_datasets([folder])


def windows(
    datasets: dict[str, SpeciesData], rank: int = 0, roll: int = 0, **changes
) -> TrainingWindows:
    settings = {
        "seed": 0,
        "balance": 1.0,
        "micro_batch_size": 6,
        "world_size": 2,
        "shift_bp": 3,
        "reverse_complement": True,
    }
    num_windows = {name: len(data.rows("train")) for name, data in datasets.items()}
    order = SampleOrder(num_windows=num_windows, **(settings | changes))
    return TrainingWindows(datasets, order, rank, SEQ_LENGTH, roll)


def assert_equal(one: Batch, other: Batch) -> None:
    assert list(one) == list(other)
    for name in one:
        for field in fields(one[name]):
            here, there = getattr(one[name], field.name), getattr(other[name], field.name)
            assert torch.equal(here, there) if torch.is_tensor(here) else here == there


def test_batches_have_the_documented_shapes(datasets):
    batch = windows(datasets)[0]
    assert list(batch) == ["finch", "moth", "perch"]  # two slots each
    for name, part in batch.items():
        assert part.codes.shape == (2, SEQ_LENGTH) and part.codes.dtype == torch.uint8
        assert part.targets.shape == (2, BINS, len(datasets[name].tracks))
        assert part.targets.dtype == torch.float16
        assert part.rows.shape == (2,) and part.rows.dtype == torch.int64


def test_a_batch_names_the_species_of_all_ranks_windows(datasets):
    found = [windows(datasets, rank, micro_batch_size=1)[1] for rank in (0, 1)]
    assert [list(batch) for batch in found] == [["finch", "perch"]] * 2
    assert [len(batch["perch"].codes) for batch in found] == [0, 1]
    absent, present = found[0]["perch"], found[1]["perch"]
    for field in ("codes", "targets", "rows"):
        assert getattr(absent, field).shape[1:] == getattr(present, field).shape[1:]
        assert getattr(absent, field).dtype == getattr(present, field).dtype
    assert [part.on_all_ranks for batch in found for part in batch.values()] == [1] * 4


def test_a_batch_holds_what_the_sampler_drew(datasets):
    training = windows(datasets)
    flips = 0
    for step in range(4):
        batch, taken = training[step], dict.fromkeys(datasets, 0)
        for draw in training.order.draws(step, 0):
            data, part, i = datasets[draw.species], batch[draw.species], taken[draw.species]
            taken[draw.species] += 1
            row = int(data.rows("train")[draw.window])
            codes, targets = data.sequence(row, SEQ_LENGTH, draw.shift_bp), data.targets(row)
            if draw.reverse_complement:
                flips += 1
                codes, targets = flip(codes, targets, data.strand_pair)
            assert int(part.rows[i]) == row
            assert np.array_equal(part.codes[i], codes)
            assert np.array_equal(part.targets[i], targets)
    assert 0 < flips < 24


def test_ranks_read_different_windows(datasets):
    for name, part in windows(datasets, rank=0)[0].items():
        assert not set(part.rows.tolist()) & set(windows(datasets, rank=1)[0][name].rows.tolist())


def test_only_training_windows_are_read(datasets):
    training = windows(datasets)
    for name, data in datasets.items():
        rows = {row for step in range(40) for row in training[step][name].rows.tolist()}
        assert rows <= set(data.rows("train").tolist())
        assert len(rows) > 10


@pytest.mark.long
def test_worker_processes_change_nothing(datasets):
    training = windows(datasets)
    alone = list(training_batches(training, 3, 9, num_workers=0, pin_memory=False))
    shared = list(training_batches(training, 3, 9, num_workers=2, pin_memory=False))
    assert len(alone) == len(shared) == 6
    for step, (one, other) in enumerate(zip(alone, shared, strict=True), start=3):
        assert_equal(one, other)
        assert_equal(one, training[step])


@pytest.mark.long
def test_reader_processes_are_new_ones_that_requests_to_stop_do_not_reach(datasets):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    batches = training_batches(windows(datasets), 0, 9, num_workers=2, pin_memory=False)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    next(batches)
    readers = [Path(f"/proc/{child.pid}") for child in multiprocessing.active_children()]
    assert len(readers) == 2
    for reader in readers:
        assert b"spawn_main" in (reader / "cmdline").read_bytes()
        blocked = int(re.search(r"SigBlk:\s*(\w+)", (reader / "status").read_text())[1], 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            assert blocked >> (number - 1) & 1
            os.kill(int(reader.name), number)
    assert len(list(batches)) == 8


def test_windows_are_pickled_as_folders_that_must_not_have_changed(datasets, folder, tmp_path):
    pickled = pickle.dumps(windows(datasets, roll=1))
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    for step in range(3):
        assert_equal(again[step], windows(datasets, roll=1)[step])
    copy = shutil.copytree(folder, tmp_path / "shards")
    pickled = pickle.dumps(windows(open_datasets([copy])))
    shutil.rmtree(copy / "moth")
    shutil.copytree(folder / "perch", copy / "moth")
    with pytest.raises(UserError, match="moth: another dataset than when the run began"):
        pickle.loads(pickled)


def test_batches_on_a_device_are_the_batches_in_order_one_ahead(datasets):
    training, read = windows(datasets), []

    def reading():
        for step in range(3, 6):
            read.append(step)
            yield training[step]

    batches = BatchesOnDevice(reading(), torch.device("cpu"))
    for step in range(3, 6):
        assert_equal(next(batches), training[step])
        batches.copy_next(), batches.copy_next()  # twice is once
        assert read[-1] == min(step + 1, 5)
    assert next(batches, None) is None


def damaged_copy(folder: Path, tmp_path: Path, row: int) -> dict[str, SpeciesData]:
    """The data sets, where a file that holds the targets of a row of the first one is cut."""
    shutil.copytree(folder, tmp_path / "copy")
    datasets = open_datasets([tmp_path / "copy"])
    file = next(iter(datasets.values())).file_of(row)
    file.write_bytes(file.read_bytes()[:-9])
    return datasets


def test_a_damaged_window_is_named_by_a_worker_process_too(datasets, folder, tmp_path):
    row = int(windows(datasets)[0]["finch"].rows[0])
    training = windows(damaged_copy(folder, tmp_path, row))
    with pytest.raises(UserError) as own:
        training[0]
    with pytest.raises(UserError) as of_worker:
        list(training_batches(training, 0, 1, num_workers=1, pin_memory=False))
    assert not multiprocessing.active_children()  # though the error is still held here
    assert str(of_worker.value) == str(own.value)
    assert re.fullmatch(rf"{tmp_path}/copy/finch/\S+: row \d+ \(\w+:\d+-\d+\) .*", str(own.value))


@pytest.mark.long
def test_a_damaged_window_is_replaced_alike_wherever_it_is_read(datasets, folder, tmp_path):
    row = int(windows(datasets)[0]["finch"].rows[0])
    datasets = damaged_copy(folder, tmp_path, row)
    ranks = [windows(datasets, rank) for rank in (0, 1)]
    for training in ranks:
        training.replace_damaged = True
    replaced, seen = {}, set()
    for training in ranks:
        workers = training_batches(training, 0, 12, num_workers=1, pin_memory=False)
        for step, of_worker in enumerate(workers):
            batch = training[step]
            assert_equal(batch, of_worker)
            seen.update(batch["finch"].rows.tolist())
            for one in batch["finch"].replaced:
                assert one.species == "finch" and f"row {one.row} (" in one.reason
                assert replaced.setdefault(one.row, one.by) == one.by
    assert row in replaced and not replaced.keys() & seen
    assert not any(part.replaced for name, part in batch.items() if name != "finch")


def test_where_nothing_can_be_read_nothing_is_replaced(datasets, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    datasets = open_datasets([tmp_path / "copy"])
    finch = datasets["finch"]
    for file in {finch.file_of(int(row)) for row in finch.rows("train")}:
        file.write_bytes(file.read_bytes()[:-9])
    training = windows(datasets)
    training.replace_damaged = True
    with pytest.raises(UserError, match="copy/finch: no training window can be read"):
        training[0]


def test_rolling_pairs_sequences_with_other_targets(datasets):
    settings = {"shift_bp": 0, "reverse_complement": False}
    true, rolled = windows(datasets, **settings), windows(datasets, roll=1, **settings)
    for name, data in datasets.items():
        rows = rolled[0][name].rows
        assert torch.equal(rolled[0][name].codes, true[0][name].codes)
        by_row = dict(zip(rolled.rows[name].tolist(), rolled.target_rows[name], strict=True))
        for row, targets in zip(rows.tolist(), rolled[0][name].targets, strict=True):
            assert by_row[row] != row
            assert np.array_equal(targets, data.targets(int(by_row[row])))


def test_rolling_stays_on_the_chromosome_and_reads_every_target_once(datasets):
    data = datasets["finch"]
    rows = data.rows("train")
    rolled = roll_within_chromosomes(data, rows, 2)
    assert sorted(rolled) == rows.tolist()
    assert np.array_equal(data.windows.chrom[rolled], data.windows.chrom[rows])
    first = rows[data.windows.chrom[rows] == "chr1"]
    assert np.array_equal(rolled[: len(first)], np.roll(first, -2))
    assert np.array_equal(roll_within_chromosomes(data, rows, 0), rows)


def test_a_roll_that_changes_nothing_is_refused(datasets):
    data = datasets["finch"]
    rows = data.rows("train")
    count = int((data.windows.chrom[rows] == "chr2").sum())
    expected = rf"roll_targets_windows={count} maps chr2's {count} windows of finch onto themselves"
    with pytest.raises(UserError, match=expected):
        roll_within_chromosomes(data, rows, count)


def test_evaluation_reads_rows_in_order_and_unchanged(datasets):
    data = datasets["finch"]
    rows = data.rows("test")
    batches = list(evaluation_batches(data, rows, SEQ_LENGTH, batch_size=2))
    assert [len(batch.rows) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.rows for batch in batches]).tolist() == rows.tolist()
    codes = torch.cat([batch.codes for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    for i, row in enumerate(rows):
        assert np.array_equal(codes[i], data.sequence(int(row), SEQ_LENGTH))
        assert np.array_equal(targets[i], data.targets(int(row)))


def test_a_species_folder_or_a_folder_of_them_can_be_opened(folder):
    assert list(open_datasets([folder])) == ["finch", "moth", "perch"]
    assert list(open_datasets([folder / "perch", folder / "finch"])) == ["perch", "finch"]


def test_unfinished_folders_are_not_opened(folder, tmp_path):
    shutil.copytree(folder / "moth", tmp_path / "moth")
    shutil.copytree(folder / "moth", tmp_path / ".perch.partial-1")
    assert list(open_datasets([tmp_path])) == ["moth"]


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no species folder here .*data_prep/shard\.py"):
        open_datasets([tmp_path])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_datasets([tmp_path / "nowhere"])


def test_a_species_given_twice_is_refused(folder):
    with pytest.raises(UserError, match=r"species 'moth' is given twice: .*moth and .*moth"):
        open_datasets([folder, folder / "moth"])


def test_species_of_different_geometry_are_refused(folder, genomes, tmp_path):
    coarse = shard(genomes[0], tmp_path, bin_size=64, target_length=24)
    with pytest.raises(UserError, match=r"moth: 48 bins of 32 bp; .*finch: 24 bins of 64 bp"):
        open_datasets([folder / "moth", coarse])


def with_a_negative_bin(folder) -> SpeciesData:
    targets = small_targets()
    targets[targets == 0] = -0.0  # which is no negative value
    targets[0, 3, 1] = -0.5
    return SpeciesData.open(write_small_dataset(folder / "tiny", targets))


def test_a_negative_target_is_refused_where_it_is_read(tmp_path):
    data = with_a_negative_bin(tmp_path)
    refuse_negative_tracks([data])  # its table does not count them, and the mean is above 0
    order = SampleOrder(
        seed=0, num_windows={"tiny": len(data.rows("train"))}, balance=0.0,
        micro_batch_size=1, world_size=1, shift_bp=0, reverse_complement=False,
    )  # fmt: skip
    read = TrainingWindows({"tiny": data}, order, 0, data.seq_length, 0)
    refused = 0
    for step in range(len(data.rows("train"))):
        try:
            read[step]
        except UserError as error:
            refused += 1
            assert "row 0 (chrI:0-128) has targets below 0 in track" in str(error)
            assert "scale below 0 (such as -1)" in str(error)
    assert refused == 1


@pytest.mark.parametrize("told", [{"negative": 1}, {"mean": -0.1}])
def test_negative_tracks_are_refused_before_training(datasets, told):
    data = next(iter(datasets.values()))
    changed = copy(data)
    changed.tracks = [replace(data.tracks[0], **told), *data.tracks[1:]]
    refuse_negative_tracks([data])
    with pytest.raises(UserError, match=f"below 0 in track {data.tracks[0].identifier}; the Pois"):
        refuse_negative_tracks([changed])
