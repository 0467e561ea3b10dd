import errno
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from small_inputs import LENGTHS, small_options, write_inputs
from zarr.abc.store import RangeByteRequest
from zarr.storage import LocalStore

from spacescale.dataset.codecs import first_error
from spacescale.dataset.manifest import read_manifest, save_manifest
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.sequence_files import read_genome
from spacescale.prepare.stages import make_dataset
from spacescale.verify.content import check_genome


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(inputs):
    return make_dataset(small_options(inputs, inputs / "out"))


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "tiny")


def padded(genome, chrom, start, length):
    codes = genome.contigs[chrom]
    inside = [codes[p] if 0 <= p < codes.size else dna.N for p in range(start, start + length)]
    return np.array(inside, dtype=np.uint8)


@pytest.mark.parametrize("seq_length, shift", [(None, 0), (None, 3), (128, -3), (500, 40), (64, 0)])
def test_sequence_by_brute_force(inputs, dataset, seq_length, shift):
    data, genome = SpeciesData.open(dataset), read_genome(inputs / "genome.fa")
    length = seq_length or 192
    for row in range(len(data)):
        start = int(data.windows.start[row]) - (length - 128) // 2 + shift
        found = data.sequence(row, seq_length, shift)
        assert found.dtype == np.uint8
        assert np.array_equal(found, padded(genome, data.windows.chrom[row], start, length))


def test_far_beyond_the_contig_is_all_n(dataset):
    data = SpeciesData.open(dataset)
    assert set(data.sequence(0, shift=-10_000).tolist()) == {dna.N}
    assert set(data.sequence(0, shift=10_000).tolist()) == {dna.N}


def test_a_large_genome_is_read_piecewise_with_the_same_result(dataset, monkeypatch):
    whole = SpeciesData.open(dataset)
    expected = [whole.sequence(row) for row in range(len(whole))]
    monkeypatch.setattr("spacescale.dataset.species_genome._KEEP_GENOME_BP", 10)
    piecewise = SpeciesData.open(dataset)
    assert all(np.array_equal(piecewise.sequence(r), s) for r, s in enumerate(expected))


def test_a_genome_that_the_disk_does_not_give_tells_what_the_disk_said(dataset, monkeypatch):
    """zarr 3.4 raises the disk's error inside an ExceptionGroup, zarr 3.1 as it is."""
    data, get = SpeciesData.open(dataset), LocalStore.get

    async def broken(self, key, prototype=None, byte_range=None):
        if isinstance(byte_range, RangeByteRequest):  # a chunk, and not the index
            raise OSError(errno.EIO, "Input/output error", key)
        return await get(self, key, prototype, byte_range)

    monkeypatch.setattr(LocalStore, "get", broken)
    with pytest.raises(UserError, match=r"genome is damaged \(\[Errno 5\] Input/output") as raised:
        data.sequence(0)
    assert isinstance(raised.value.__cause__, OSError)
    assert [finding.what for finding in check_genome(data)] == [
        "a chunk is damaged ([Errno 5] Input/output error: 'c/0')"
    ]


def test_the_first_error_of_groups_within_groups():
    inner = ExceptionGroup("inner", [ValueError("a"), OSError("b")])
    assert str(first_error(ExceptionGroup("outer", [inner, KeyError("c")]))) == "a"
    assert str(first_error(KeyboardInterrupt("alone"))) == "alone"


def test_odd_context_is_refused(dataset):
    with pytest.raises(ValueError, match="even number"):
        SpeciesData.open(dataset).sequence(0, 129)


def test_rows(dataset):
    data = SpeciesData.open(dataset)
    rows = data.rows("valid")
    assert rows.dtype == np.int64
    assert set(data.windows.chrom[rows]) == {"chrII"}
    assert np.all(np.diff(rows) > 0)
    with pytest.raises(UserError, match="no split 'fold1'; it has train, valid, test"):
        data.rows("fold1")
    with pytest.raises(IndexError):
        data.targets(len(data))


def read_row(data: SpeciesData, row: int, queue) -> None:
    queue.put((data.targets(row), data.sequence(row)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(dataset, method):
    data = SpeciesData.open(dataset)
    expected = data.targets(3), data.sequence(3)  # the parent has opened zarr before the fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=read_row, args=(data, 3, queue))
    worker.start()
    found = queue.get(timeout=60)
    worker.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_pickle_leaves_open_files_behind(dataset):
    data = SpeciesData.open(dataset)
    fresh = pickle.dumps(data)
    data.sequence(0)
    data.targets(0)
    assert pickle.dumps(data) == fresh
    again = pickle.loads(fresh)
    assert again.manifest_hash == data.manifest_hash
    assert np.array_equal(again.targets(1), data.targets(1))


def test_a_fresh_process_reads_without_prep_extra_or_warnings(dataset):
    code = (
        "import sys\n"
        "for name in ('pyBigWig', 'pyfaidx', 'py2bit', 'deepspeed', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "from spacescale.dataset.reader import SpeciesData\n"
        f"data = SpeciesData.open({str(dataset)!r})\n"
        "print(data.targets(0).shape, data.sequence(0).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("(8, 2) (192,)", "")


def edit_manifest(folder, **changes):
    save_manifest(folder, read_manifest(folder)[0].model_copy(update=changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format_version": 4}, "format version 4.* reads 2 to 3: upgrade spacescale"),
        ({"format_version": 1}, "format version 1.*make it again, from its sources"),
        ({"format": "other"}, "not the manifest of a spacescale-species dataset"),
        ({"num_tracks": 7}, "differ in the number of tracks"),
        ({"num_windows": {"train": 1}}, "differ in the number of rows"),
    ],
)
def test_version_gate_and_manifest_faults(copy, changes, message):
    edit_manifest(copy, **changes)
    with pytest.raises(UserError, match=message):
        SpeciesData.open(copy)


def test_every_byte_of_the_manifest_counts(copy):
    """A single changed letter is refused, wherever it stands: in a name, a length or a note."""
    path = copy / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"manifest\.json|format version"):
            SpeciesData.open(copy)
    path.write_bytes(content)
    SpeciesData.open(copy)


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_a_manifest_of_wrong_types_is_refused(copy):
    edit_manifest(copy, num_tracks="many")
    with pytest.raises(UserError, match=r"manifest\.json is damaged (?s:.*)num_tracks"):
        SpeciesData.open(copy)


def test_open_tells_missing_and_short_files(copy, tmp_path):
    with pytest.raises(UserError, match="no such dataset folder"):
        SpeciesData.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"is no species dataset: it has no manifest.json"):
        SpeciesData.open(tmp_path)
    shard = copy / "targets/c/1/0/0"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"1/0/0 has \d+ bytes, the manifest says \d+"):
        SpeciesData.open(copy)
    shard.unlink()
    with pytest.raises(UserError, match=r"1/0/0 is missing"):
        SpeciesData.open(copy)


@pytest.mark.parametrize("name", ["windows.bed", "sequence.bed", "tracks.tsv", "targets/zarr.json"])
def test_open_tells_a_changed_digit_in_a_table(copy, name):
    """The targets carry their checksums with them; where a window lies is told by a table only."""
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace("1", "2", 1))
    with pytest.raises(UserError, match=rf"{name} differs from its SHA-256 in the manifest"):
        SpeciesData.open(copy)


def test_missing_chunk_after_opening_names_file_and_window(copy):
    data = SpeciesData.open(copy)
    (copy / "targets/c/1/0/0").unlink()
    w = data.windows
    place = f"{w.chrom[17]}:{w.start[17]}-{w.end[17]}"
    with pytest.raises(UserError, match=rf"targets/c/1/0/0: row 17 \({place}\) is missing"):
        data.targets(17)
    (copy / "genome/c/0").unlink()
    with pytest.raises(UserError, match=r"genome: a chunk in .* is missing"):
        data.sequence(0)


def test_flipped_bits_never_pass(copy):
    """Of 60 single flips in one shard none may change a target; verify finds each."""
    expected = [SpeciesData.open(copy).targets(row) for row in range(16)]
    shard = copy / "targets/c/0/0/0"
    content = shard.read_bytes()
    rng = np.random.default_rng(0)
    for byte, bit in zip(rng.integers(0, len(content), 60), rng.integers(0, 8, 60), strict=True):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << bit
        shard.write_bytes(damaged)
        data = SpeciesData.open(copy)
        for row in range(16):
            try:
                found = data.targets(row)
            except UserError:
                continue
            assert np.array_equal(found, expected[row])
        with pytest.raises(UserError, match=r"differing from the manifest: targets/c/0/0/0"):
            data.verify()
    shard.write_bytes(content)
    SpeciesData.open(copy).verify()


def test_bases_of_a_piece_of_a_contig_are_counted_from_the_contig_s_start(dataset):
    data = SpeciesData.open(dataset)
    whole = data.manifest.contigs[1]
    piece = replace(whole, start=100, length=60, offset=whole.offset + 100)
    assert data.bases(piece, 110, 130).tolist() == data.bases(whole, 110, 130).tolist()
    assert data.bases(piece, 100, 160).size == 60
    with pytest.raises(AssertionError):
        data.bases(piece, 90, 130)


def test_contig_table_leads_to_the_bases(dataset):
    contigs = SpeciesData.open(dataset).manifest.contigs
    assert [c.name for c in contigs] == list(LENGTHS)
    assert [c.offset for c in contigs] == [0, 3000, 5000, 6500]
    assert (dataset / "manifest.json").stat().st_size < 10_000
