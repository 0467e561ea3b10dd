import filecmp
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from numcodecs.pcodec import PCodec
from small_datasets import write_small_dataset

from spacescale.dataset.loader import TrainingWindows, training_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.dataset.tar_targets import INDEX, SHARDS, read_index
from spacescale.errors import UserError
from spacescale.prepare.tar_export import export_webdataset


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_small_dataset(tmp_path_factory.mktemp("data") / "zarr" / "tiny")


@pytest.fixture(scope="module")
def exported(source):
    """49 windows in 5 shards of 11, the last one smaller."""
    return export_webdataset(source, source.parents[1] / "tar" / "tiny", windows_per_shard=11)


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "tiny")


@pytest.mark.parametrize("codec", ["pcodec", "none"])
def test_every_window_is_the_same_bit_for_bit(source, tmp_path, codec):
    before = SpeciesData.open(source)
    after = SpeciesData.open(export_webdataset(source, tmp_path / "tiny", codec=codec))
    assert after.manifest.storage.model_dump() == {
        "format": "webdataset",
        "codec": codec,
        "windows_per_shard": 16,
    }
    assert after.manifest.split == before.manifest.split
    assert after.tracks == before.tracks
    for row in range(len(before)):
        assert after.targets(row).tobytes() == before.targets(row).tobytes()
        assert np.array_equal(after.sequence(row, 300, -2), before.sequence(row, 300, -2))
    after.verify()


@pytest.mark.long
def test_repetition_and_workers_change_no_byte(source, exported, tmp_path):
    again = export_webdataset(source, tmp_path / "tiny", windows_per_shard=11, workers=2)
    names = [*SpeciesData.open(exported).manifest.files, "manifest.json"]
    same, different, missing = filecmp.cmpfiles(exported, again, names, shallow=False)
    assert (sorted(same), different, missing) == (sorted(names), [], [])


def test_webdataset_itself_reads_the_same_arrays(exported):
    data = SpeciesData.open(exported)
    urls = [str(path) for path in sorted((exported / SHARDS).glob("*.tar"))]
    assert len(urls) == 5
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{row:08d}" for row in range(len(data))]
    for row, sample in enumerate(samples):
        place = sample["json"]
        targets = PCodec().decode(sample["targets.pco"]).reshape(place["targets_shape"])
        assert np.array_equal(targets, data.targets(row))
        assert np.array_equal(sample["sequence.npy"], data.sequence(row))
        assert sample["sequence.npy"].dtype == np.uint8
        windows = data.windows
        where = place["chrom"], place["start"], place["end"], place["split"]
        assert where == (
            windows.chrom[row], windows.start[row], windows.end[row], windows.split[row],
        )  # fmt: skip
        assert place["sequence_start"] == windows.start[row] - 32


def order_of(data: SpeciesData, world_size: int) -> SampleOrder:
    return SampleOrder(
        seed=3,
        num_windows={data.name: len(data.rows("train"))},
        balance=0.0,
        micro_batch_size=2,
        world_size=world_size,
        shift_bp=3,
        reverse_complement=True,
    )


def batches_of(data: SpeciesData, world_size: int, rank: int, num_workers: int, steps: int):
    windows = TrainingWindows({data.name: data}, order_of(data, world_size), rank, 192, 0)
    return list(training_batches(windows, 0, steps, num_workers, pin_memory=False))


@pytest.mark.long
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_equal_those_of_the_zarr_form(source, exported, num_workers):
    ours = batches_of(SpeciesData.open(exported), 1, 0, num_workers, steps=20)
    theirs = batches_of(SpeciesData.open(source), 1, 0, 0, steps=20)
    for a, b in zip(ours, theirs, strict=True):
        assert a["tiny"].rows.equal(b["tiny"].rows)
        assert a["tiny"].codes.equal(b["tiny"].codes)
        assert a["tiny"].targets.equal(b["tiny"].targets)


def test_more_processes_than_shards_all_get_their_windows(exported):
    """5 uneven shards and 8 ranks: each rank gets every step, together each window once."""
    data, world_size = SpeciesData.open(exported), 8
    num_train = len(data.rows("train"))
    steps = num_train // (2 * world_size)
    seen = [
        batch["tiny"].rows.tolist()
        for rank in range(world_size)
        for batch in batches_of(data, world_size, rank, 0, steps)
    ]
    assert [len(rows) for rows in seen] == [2] * (steps * world_size)
    flat = [row for rows in seen for row in rows]
    assert len(set(flat)) == len(flat) == steps * 2 * world_size <= num_train


def read_row(data: SpeciesData, row: int, queue) -> None:
    queue.put((data.targets(row), data.sequence(row)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(exported, method):
    data = SpeciesData.open(exported)
    expected = data.targets(13), data.sequence(13)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=read_row, args=(data, 13, queue))
    worker.start()
    found = queue.get(timeout=60)
    worker.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again.targets(13), expected[0])


def test_reading_needs_neither_webdataset_nor_torch(exported):
    code = (
        "import sys\n"
        "for name in ('webdataset', 'pyBigWig', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "from spacescale.dataset.reader import SpeciesData\n"
        f"print(SpeciesData.open({str(exported)!r}).targets(0).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("(8, 3)", "")


def read_all(folder) -> list[bytes | str]:
    """Return each window's bytes, or the message that refused it."""
    data, found = SpeciesData.open(folder), []
    for row in range(len(data)):
        try:
            found.append(data.targets(row).tobytes())
        except UserError as error:
            found.append(str(error))
    return found


def test_of_300_flipped_bits_none_changes_a_target(copy):
    """A flip within stored targets is refused, with file and window; any other is harmless."""
    expected = read_all(copy)
    data = SpeciesData.open(copy)
    with tarfile.open(copy / SHARDS / "targets-000000.tar") as tar:
        spans = {
            row: (member.offset_data, member.offset_data + member.size)
            for row, member in enumerate(m for m in tar if m.name.endswith(".targets.pco"))
        }
    shard = copy / SHARDS / "targets-000000.tar"
    content, rng = shard.read_bytes(), np.random.default_rng(0)
    places = rng.integers(0, len(content), 200).tolist()
    places += [int(rng.integers(*spans[row % 11])) for row in range(100)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        hit = [row for row, (start, end) in spans.items() if start <= place < end]
        for row, found in enumerate(read_all(copy)):
            if row in hit:
                w = data.windows
                where = f"row {row} ({w.chrom[row]}:{w.start[row]}-{w.end[row]}) is damaged"
                assert isinstance(found, str) and f"{shard}: {where}" in found
            else:
                assert found == expected[row]


def test_truncation_at_every_tar_record_is_found(copy):
    expected = read_all(copy)
    shard = copy / SHARDS / "targets-000001.tar"
    content = shard.read_bytes()
    data = SpeciesData.open(copy)
    for size in range(0, len(content), 512):
        shard.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"targets-000001.tar has \d+ bytes, the manifest says"):
            SpeciesData.open(copy)
        for row in range(11, 22):  # opened before: still nothing wrong is read
            try:
                assert data.targets(row).tobytes() == expected[row]
            except UserError as error:
                assert f"targets-000001.tar: row {row} " in str(error)
                assert "the file ends before byte" in str(error)


def test_swapped_and_missing_shards_are_found(copy):
    data = SpeciesData.open(copy)
    first, second = (copy / SHARDS / f"targets-00000{i}.tar" for i in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match=r"targets-000000.tar: row 3 .* is damaged"):
        data.targets(3)
    first.unlink()
    with pytest.raises(UserError, match=r"targets-000000.tar: row 3 .* No such file"):
        data.targets(3)
    with pytest.raises(UserError, match=r"targets-000000.tar is missing"):
        SpeciesData.open(copy)
    first.write_bytes(content)
    data.verify()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("index 1", "index 2", r"begins with '# spacescale-tar-index 2', expected"),
        ("targets_offset", "targets_0ffset", "its columns are"),
        ("\n7\t", "\n8\t", "it should list the windows 0 to"),
        ("\n7\t", "\nx\t", "is damaged"),
    ],
)
def test_a_damaged_index_is_refused(copy, old, new, message):
    num_windows = len(SpeciesData.open(copy))
    path = copy / SHARDS / INDEX
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_index(path, num_windows)
    with pytest.raises(UserError, match=r"index.tsv (differs from its SHA-256|has \d+ bytes)"):
        SpeciesData.open(copy)


def test_shards_are_exported_to_other_shards(source, exported, tmp_path):
    again = export_webdataset(exported, tmp_path / "again", "none", windows_per_shard=7)
    plain = export_webdataset(source, tmp_path / "plain", "none", windows_per_shard=7)
    assert filecmp.cmp(again / SHARDS / INDEX, plain / SHARDS / INDEX, shallow=False)
    assert SpeciesData.open(again).manifest == SpeciesData.open(plain).manifest


def test_refusals_leave_nothing_behind(source, exported, tmp_path):
    with pytest.raises(UserError, match="or lies in it"):
        export_webdataset(source, source / "tar")
    with pytest.raises(UserError, match="is the dataset itself"):
        export_webdataset(source, source, overwrite=True)
    with pytest.raises(UserError, match="codec 'zstd': tar shards know pcodec, none"):
        export_webdataset(source, tmp_path / "new" / "tiny", codec="zstd")
    with pytest.raises(UserError, match="exists; add --overwrite"):
        export_webdataset(source, exported)
    damaged = shutil.copytree(source, tmp_path / "damaged")
    shard = damaged / "targets/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 4
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"differing from the manifest: targets/c/1/0/0"):
        export_webdataset(damaged, tmp_path / "new" / "tiny")
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_not_copied_unharmed_is_noticed(source, tmp_path, monkeypatch):
    copyfile = shutil.copyfile

    def copy(first, second, **named):
        copyfile(first, second, **named)
        if Path(second).name == "windows.bed":
            second.write_bytes(second.read_bytes().replace(b"1", b"2"))

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(UserError, match=r"windows.bed was not copied unharmed"):
        export_webdataset(source, tmp_path / "new" / "tiny")
    assert not (tmp_path / "new").exists()


def test_the_sample_tells_its_place(exported):
    with tarfile.open(exported / SHARDS / "targets-000004.tar") as tar:
        members = tar.getmembers()
        place = json.load(tar.extractfile(members[0]))
    assert [m.name for m in members[:3]] == [
        "00000044.json", "00000044.sequence.npy", "00000044.targets.pco",
    ]  # fmt: skip
    assert {(m.mtime, m.uname, m.uid) for m in members} == {(0, "spacescale", 0)}
    assert place["species"] == "tiny" and place["bin_size"] == 16
