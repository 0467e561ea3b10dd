import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import DATA_PREP, run, run_here
from imported_sets import (
    BIN_SIZE,
    MARGIN,
    NUM_TRACKS,
    SEQ_LENGTH,
    SPAN,
    TABLE,
    TARGET_LENGTH,
    example,
    small_set,
    write_basenji,
    write_fasta,
    write_tfrecord,
)

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.prepare.importers.basenji import BasenjiSet
from spacescale.prepare.importers.import_dataset import ImportOptions, import_dataset
from spacescale.verify.check import verify_species
from spacescale.verify.findings import has_errors

SCRIPT = DATA_PREP / "import_tfrecords.py"


@pytest.fixture
def small():
    return small_set()


def convert(folder: Path, out: Path, **changes) -> SpeciesData:
    settings = {
        "species": "tiny",
        "targets": folder / "targets.txt",
        "windows": folder / "sequences.bed",
        "out": out,
    }
    options = ImportOptions(**(settings | changes))
    return SpeciesData.open(import_dataset(options, BasenjiSet(folder)))


def number_of(small, data: SpeciesData, row: int) -> int:
    """Return which window of the set a row of the dataset is."""
    windows = data.windows
    place = (str(windows.chrom[row]), int(windows.start[row]), str(windows.split[row]))
    return small.places.index(place)


def assert_equal_to_set(small, data: SpeciesData) -> None:
    for row in range(len(data)):
        number = number_of(small, data, row)
        found = data.targets(row)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, small.targets[number])
        np.testing.assert_array_equal(data.sequence(row), small.codes(number))


@pytest.mark.parametrize("compression", ["none", "zlib", "gzip"])
@pytest.mark.parametrize(
    ("bases", "targets"),
    [
        ("index", "float16"), ("one_hot", "float16"), ("float_list", "float_list"),
        ("uniform", "unpacked"), ("one_hot", "float32"),
    ],
)  # fmt: skip
def test_every_encoding_gives_the_same_numbers(small, tmp_path, bases, targets, compression):
    folder = write_basenji(tmp_path / "set", small, bases, targets, compression)
    source = BasenjiSet(folder)
    assert source.num_records == {"train": 5, "valid": 2, "test": 1}
    blocks = source.blocks(None)
    for split in source.num_records:
        records = [r for block in blocks if block.split == split for r in source.records(block)]
        for number, record in zip(small.numbers_of(split), records, strict=True):
            np.testing.assert_array_equal(record.codes, small.codes(number))
            np.testing.assert_array_equal(record.targets, small.targets[number])


def test_dataset_without_a_genome_holds_the_pieces(small, tmp_path):
    data = convert(write_basenji(tmp_path / "set", small), tmp_path / "out")
    assert len(data) == len(small.places)
    assert_equal_to_set(small, data)
    assert list(dict.fromkeys(data.windows.chrom)) == ["chr1", "chr2", "chr10"]
    assert data.manifest.num_windows == {"train": 5, "valid": 2, "test": 1}
    pieces = [(c.name, c.start, c.start + c.length, c.whole) for c in data.manifest.contigs]
    # The inputs of 100 and 132 overlap, as do those of 4 and … not; 4 reaches beyond the start.
    assert pieces == [
        ("chr1", 0, 52, False), ("chr1", 84, 180, False), ("chr1", 244, 308, False),
        ("chr1", 340, 404, False), ("chr2", 24, 88, False), ("chr2", 184, 248, False),
        ("chr10", 44, 108, False),
    ]  # fmt: skip
    data.verify()


def test_around_a_piece_the_sequence_is_not_known(small, tmp_path):
    data = convert(write_basenji(tmp_path / "set", small), tmp_path / "out")
    row = len(data) - 1
    moved = data.sequence(row, shift=3)
    np.testing.assert_array_equal(moved[:-3], data.sequence(row)[3:])
    assert moved[-3:].tolist() == [4, 4, 4]
    with pytest.raises(UserError, match="need the genome"):
        data.sequence(row, SEQ_LENGTH + 2)


def test_dataset_with_a_genome_reads_any_context(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small, "one_hot")
    fasta = write_fasta(tmp_path / "genome.fa", small.genome)
    data = convert(folder, tmp_path / "out", fasta=fasta, seq_length=SEQ_LENGTH + 40)
    assert data.seq_length == SEQ_LENGTH + 40
    row = len(data) - 1
    start = int(data.windows.start[row])
    expected = small.genome["chr10"][start - MARGIN - 20 : start + SPAN + MARGIN + 20]
    np.testing.assert_array_equal(data.sequence(row), expected)
    assert [(c.name, c.whole) for c in data.manifest.contigs] == [
        ("chr1", True), ("chr2", True), ("chr10", True),
    ]  # fmt: skip
    assert not data.manifest.report.warnings
    for row in range(len(data)):
        number = number_of(small, data, row)
        np.testing.assert_array_equal(data.sequence(row, SEQ_LENGTH), small.codes(number))


def test_manifest_says_where_everything_came_from(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    manifest = convert(folder, tmp_path / "out").manifest
    assert (manifest.stride, manifest.transform.name, manifest.split.method) == (
        None, "imported", "imported",
    )  # fmt: skip
    names = [source.name for source in manifest.sources.imported]
    assert names == [
        "statistics.json", "train-0.tfr", "train-1.tfr", "train-2.tfr", "valid-0.tfr",
        "valid-1.tfr", "test-0.tfr",
    ]  # fmt: skip
    assert manifest.sources.fasta is None and manifest.sources.split_bed.name == "sequences.bed"
    text = (tmp_path / "out/tiny/manifest.json").read_text()
    assert str(tmp_path) not in text


def test_tracks_keep_their_columns_and_get_a_mean(small, tmp_path):
    data = convert(write_basenji(tmp_path / "set", small), tmp_path / "out")
    train = small.targets[small.numbers_of("train")].astype(np.float64)
    np.testing.assert_allclose(data.track_mean, train.mean((0, 1)), rtol=1e-6)
    assert data.strand_pair.tolist() == [1, 0, 2]
    up, _, opened = data.tracks
    assert (up.file, up.clip, up.clip_soft, up.sum_stat) == ("up.w5", 384, 64, "sum_sqrt")
    assert (opened.clip_soft, opened.scale, opened.assay) == (None, 2.0, "dnase_atac")
    assert np.isnan(up.covered)


def test_some_tracks_only(small, tmp_path):
    small.targets[0, 0, 2] = np.inf  # in a track that is not taken
    folder = write_basenji(tmp_path / "set", small)
    data = convert(folder, tmp_path / "out", tracks=("down", "0"))
    assert [track.identifier for track in data.tracks] == ["up", "down"]
    for row in range(len(data)):
        number = number_of(small, data, row)
        np.testing.assert_array_equal(data.targets(row), small.targets[number][:, :2])
    with pytest.raises(UserError, match="without its opposite strand"):
        convert(folder, tmp_path / "other", tracks=("down",))


def test_shards_are_read_by_number_and_may_be_empty(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    for path in (folder / "tfrecords").glob("train-*.tfr"):
        path.unlink()
    numbers = iter(small.numbers_of("train"))
    for shard in range(12):
        records = [example(small, next(numbers))] if shard in (0, 2, 9, 10, 11) else []
        write_tfrecord(folder / f"tfrecords/train-{shard}.tfr", records)
    (folder / "tfrecords/train-1.tfr").write_bytes(b"")
    (folder / "tfrecords/._train-0.tfr").write_bytes(b"left by a file manager")
    assert_equal_to_set(small, convert(folder, tmp_path / "out"))


def test_input_intervals_in_the_bed_mean_the_same_windows(small, tmp_path):
    small.places[5] = ("chr1", 20, "train")
    narrow = convert(write_basenji(tmp_path / "narrow", small), tmp_path / "a")
    folder = write_basenji(tmp_path / "wide", small)
    lines = [
        f"{chrom}\t{start - MARGIN}\t{start + SPAN + MARGIN}\t{split}"
        for chrom, start, split in small.places
    ]
    (folder / "sequences.bed").write_text("\n".join(lines))
    wide = convert(folder, tmp_path / "b")
    assert (narrow.path / "windows.bed").read_text() == (wide.path / "windows.bed").read_text()


def test_folds_become_splits(small, tmp_path):
    names = {"train": "fold0", "valid": "fold1", "test": "fold2"}
    small.places = [(chrom, start, names[split]) for chrom, start, split in small.places]
    folder = write_basenji(tmp_path / "set", small)
    with pytest.raises(UserError, match="--valid-folds"):
        convert(folder, tmp_path / "out")
    with pytest.raises(UserError, match="--test-folds fold7: the BED has fold0, fold1, fold2"):
        convert(folder, tmp_path / "out", test_folds=("fold7",))
    data = convert(folder, tmp_path / "out", valid_folds=("fold1",), test_folds=("fold2",))
    assert data.manifest.num_windows == {"train": 5, "valid": 2, "test": 1}
    assert data.manifest.split.settings == {"valid_folds": ["fold1"], "test_folds": ["fold2"]}


def test_records_without_places(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    data = convert(folder, tmp_path / "out", windows=None)
    order = [n for split in ("train", "valid", "test") for n in small.numbers_of(split)]
    rows = {name: row for row, name in enumerate(data.windows.chrom)}
    for name, number in zip(
        [*(f"train_window_{n:06d}" for n in range(5)), "valid_window_000000"], order, strict=False
    ):
        np.testing.assert_array_equal(data.targets(rows[name]), small.targets[number])
        np.testing.assert_array_equal(data.sequence(rows[name]), small.codes(number))
    with pytest.raises(UserError, match="--fasta needs --windows"):
        convert(folder, tmp_path / "other", windows=None, fasta=folder / "genome.fa")


def test_differences_from_the_genome(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    small.genome["chr2"][210] = (small.genome["chr2"][210] + 1) % 4
    fasta = write_fasta(tmp_path / "other.fa", small.genome)
    with pytest.raises(
        UserError,
        match=r"test-0.tfr: record 0: 1 of 64 bases around chr2:200-232 differ .*first at 210",
    ):
        convert(folder, tmp_path / "out", fasta=fasta)
    small.genome["chr2"][210] = 4
    fasta = write_fasta(tmp_path / "masked.fa", small.genome)
    data = convert(folder, tmp_path / "out", fasta=fasta)
    assert "1 bases of 1 windows are N" in data.manifest.report.warnings[0]
    small.genome["chr2"][:] = 4
    fasta = write_fasta(tmp_path / "empty.fa", small.genome)
    with pytest.raises(UserError, match="nothing to compare"):
        convert(folder, tmp_path / "out", fasta=fasta, overwrite=True)


def test_a_record_with_the_bases_of_another_is_warned_of(small, tmp_path):
    assert not convert(write_basenji(tmp_path / "set", small), tmp_path).manifest.report.warnings
    train, test = slice(100 - MARGIN, 100 + SPAN + MARGIN), slice(200 - MARGIN, 200 + SPAN + MARGIN)
    small.genome["chr2"][test] = small.genome["chr1"][train]
    folder = write_basenji(tmp_path / "twins", small)
    (warning,) = convert(folder, tmp_path / "out").manifest.report.warnings
    assert warning.startswith("1 windows hold all the bases of an earlier one, such as ")
    other, one = warning.split(" those of ")
    assert other.endswith("test-0.tfr: record 0") and "train-0.tfr: record 1: is a file" in one


def test_a_bed_in_another_order_is_found_out(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    fasta = write_fasta(tmp_path / "genome.fa", small.genome)
    lines = (folder / "sequences.bed").read_text().splitlines()
    lines[0], lines[1] = lines[1], lines[0]
    (folder / "sequences.bed").write_text("\n".join(lines))
    with pytest.raises(UserError, match="BED of another order"):
        convert(folder, tmp_path / "out", fasta=fasta)
    with pytest.raises(UserError, match="BED of another order"):
        convert(folder, tmp_path / "out")  # windows at 100 and 132 overlap
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"train-1.tfr: record 1: track down is nan in bin 3; --missing nan"),
        (np.inf, r"record 1: track down is inf in bin 3: an overflow"),
    ],
)
def test_values_that_are_not_finite_are_refused(small, tmp_path, value, message):
    small.targets[5, 3, 1] = value
    folder = write_basenji(tmp_path / "set", small)
    with pytest.raises(UserError, match=message):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nan_can_mean_not_measured(small, tmp_path):
    small.targets[1, 3, 1] = np.nan
    small.targets[7] = np.nan
    folder = write_basenji(tmp_path / "set", small)
    data = convert(folder, tmp_path / "out", missing="nan")
    assert_equal_to_set(small, data)
    assert data.manifest.missing == "nan" and len(data) == len(small.places) - 1
    assert data.manifest.report.dropped_unmeasured == 1
    train = small.targets[small.numbers_of("train")].astype(np.float64)
    np.testing.assert_allclose(data.track_mean, np.nanmean(train, (0, 1)), rtol=1e-6)
    assert data.tracks[1].covered == pytest.approx(1 - 1 / (7 * TARGET_LENGTH))
    small.targets[0, 0, 0] = np.inf
    folder = write_basenji(tmp_path / "infinite", small)
    with pytest.raises(UserError, match="is inf"):
        convert(folder, tmp_path / "other", missing="nan")


def test_a_split_that_was_measured_nowhere_is_refused(small, tmp_path):
    """Its windows are left out; of train's, the means of all tracks would be NaN."""
    small.targets[small.numbers_of("train")] = np.nan
    folder = write_basenji(tmp_path / "set", small)
    with pytest.raises(UserError, match="split train has no window left"):
        convert(folder, tmp_path / "out", missing="nan")
    assert not (tmp_path / "out").exists()


def test_float32_beyond_float16_is_cut_and_counted(small, tmp_path):
    values = small.targets.astype(np.float32)
    values[0, 2, 2] = 1e6
    values[0, 3, 2] = 1.0001
    wide = replace(small, targets=values)
    folder = write_basenji(tmp_path / "set", wide, targets="float_list")
    data = convert(folder, tmp_path / "out")
    assert data.targets(len(data) - 1)[2, 2] == np.float16(65504)
    assert data.manifest.report.saturated_bins == {"open": 1}
    text = " ".join(data.manifest.report.warnings)
    assert "open has 1 bins beyond float16" in text and "1 of 192 values were rounded" in text


@pytest.mark.parametrize("targets", ["float16", "float64", "int64_list", "int64_unpacked"])
@pytest.mark.parametrize(
    "bases",
    ["int64_index", "int64_one_hot", "float_index", "one_hot_float16", "one_hot_float32",
     "one_hot_float64"],
)  # fmt: skip
def test_whole_numbers_and_every_width_of_floats(small, tmp_path, bases, targets):
    rng = np.random.default_rng(2)
    small.targets = rng.integers(-3, 2_000, small.targets.shape).astype(np.float16)
    folder = write_basenji(tmp_path / "set", small, bases, targets)
    edit_statistics(folder, seq_length=64.0)
    data = convert(folder, tmp_path / "out")
    assert_equal_to_set(small, data)


def test_whole_numbers_beyond_float16_are_counted(small, tmp_path):
    small.targets = small.targets.round().astype(np.int64)
    small.targets[0, 0, 0], small.targets[1, 1, 1], small.targets[3, 2, 2] = 2_049, 2**60, -(2**40)
    folder = write_basenji(tmp_path / "set", small, "index", "int64_list")
    report = convert(folder, tmp_path / "out").manifest.report
    assert report.saturated_bins == {"down": 1, "open": 1}
    assert any("1 of 192 values were rounded" in warning for warning in report.warnings)


def test_bytes_of_whole_numbers_are_not_taken_for_floats(small, tmp_path):
    """As float32 the numbers 0 to 8,388,607 are all next to 0."""
    small.targets = small.targets.round().astype(np.int32)
    folder = write_basenji(tmp_path / "set", small, "index", "as they are")
    with pytest.raises(UserError, match="are whole numbers of 32 bits, not floats: write them as"):
        convert(folder, tmp_path / "out")


def edit_statistics(folder: Path, **changes) -> None:
    path = folder / "statistics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


REFUSALS = {
    "missing shard": (
        lambda folder: (folder / "tfrecords/train-1.tfr").unlink(), "train-1.tfr missing",
    ),
    "missing last shard": (
        lambda folder: (folder / "tfrecords/train-2.tfr").unlink(),
        "2 shards of train hold 4 records, statistics.json says 5",
    ),
    "strange shard": (
        lambda folder: (folder / "tfrecords/fold9-0.tfr").touch(), "fold9-0.tfr is a shard of no",
    ),
    "one record too many": (
        lambda folder: edit_statistics(folder, test_seqs=0), "lists 1 windows of test",
    ),
    "fewer tracks": (
        lambda folder: edit_statistics(folder, num_targets=2), "lists 3 tracks, but the set has 2",
    ),
    "other length": (
        lambda folder: edit_statistics(folder, seq_length=66, crop_bp=17),
        "sequence has 64 bytes, which for seq_length 66 is neither",
    ),
    "other crop": (
        lambda folder: edit_statistics(folder, crop_bp=8), "crop_bp 8 does not fit",
    ),
    "other bins": (
        lambda folder: edit_statistics(folder, target_length=6, crop_bp=20),
        "targets have 48 bytes; 6 bins of 3 tracks are 36 bytes",
    ),
    "text for a number": (
        lambda folder: edit_statistics(folder, pool_width="4"), "pool_width must be a whole number",
    ),
    "no statistics": (
        lambda folder: (folder / "statistics.json").unlink(), "statistics.json is missing",
    ),
    "no json": (
        lambda folder: (folder / "statistics.json").write_text("[[["), "is no JSON",
    ),
    "one table row less": (
        lambda folder: (folder / "targets.txt").write_text(TABLE[: TABLE.index("2\topen")]),
        "lists 2 tracks, but the set has 3",
    ),
    "html page": (
        lambda folder: (folder / "tfrecords/test-0.tfr").write_text("<html>not found</html>"),
        "test-0.tfr is an HTML or XML page, not a TFRecord file: a failed download",
    ),
    "zip": (
        lambda folder: (folder / "tfrecords/test-0.tfr").write_bytes(b"PK\x03\x04" + bytes(9)),
        "test-0.tfr is compressed by zip: unpack it with unzip",
    ),
    "neither": (
        lambda folder: (folder / "tfrecords/test-0.tfr").write_bytes(b"abc" * 9),
        "is no TFRecord file",
    ),
    "truncated": (
        lambda folder: truncate(folder / "tfrecords/test-0.tfr"), "test-0.tfr is truncated",
    ),
    "a hostile count": (
        lambda folder: edit_statistics(folder, train_seqs=10**15), "iB free; scratch and result",
    ),
    "no record": (
        lambda folder: edit_statistics(folder, train_seqs=0, valid_seqs=0, test_seqs=0),
        "the set holds no record",
    ),
    "a leak": (
        lambda folder: move_target(folder / "sequences.bed"), "the same bases in two splits",
    ),
}  # fmt: skip


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def move_target(path: Path) -> None:
    path.write_text(path.read_text().replace("chr2\t200\t232", "chr2\t50\t82"))


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_is_wrong_and_leave_nothing(small, tmp_path, name):
    folder = write_basenji(tmp_path / "set", small)
    change, message = REFUSALS[name]
    change(folder)
    with pytest.raises(UserError, match=message):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_imports_are_byte_identical_and_overwrite_replaces(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    first = convert(folder, tmp_path / "a")
    second = convert(folder, tmp_path / "b")
    names = [*first.manifest.files, "manifest.json"]
    assert all((first.path / n).read_bytes() == (second.path / n).read_bytes() for n in names)
    with pytest.raises(UserError, match="add --overwrite"):
        convert(folder, tmp_path / "a")
    assert len(convert(folder, tmp_path / "a", overwrite=True)) == len(first)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["tiny"]


@pytest.mark.parametrize("windows", ["sequences.bed", None])
def test_verify_finds_nothing_wrong(small, tmp_path, windows):
    small.targets[7] = np.nan
    small.targets[1, 3, 1] = np.nan
    folder = write_basenji(tmp_path / "set", small)
    places = folder / windows if windows else None
    data = convert(folder, tmp_path / "out", windows=places, missing="nan")
    assert not has_errors(verify_species(data.path))


def test_command(small, tmp_path):
    folder = write_basenji(tmp_path / "set", small)
    command = [SCRIPT, folder, "--species", "tiny", "--out", tmp_path / "out"]
    done = run(sys.executable, *command)
    assert done.returncode == 0, done.stderr
    assert "8 records of 64 bp, target 8 bins of 4 bp, 3 tracks" in done.stdout
    assert "train 5, valid 2, test 1" in done.stdout
    (folder / "sequences.bed").unlink()
    done = run_here(*command, "--overwrite")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "sequences.bed" in done.stderr
    assert SpeciesData.open(tmp_path / "out/tiny").manifest.num_tracks == NUM_TRACKS
    assert BIN_SIZE * TARGET_LENGTH == SPAN
