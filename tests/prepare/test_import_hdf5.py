import gzip
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import DATA_PREP, run, run_here
from imported_sets import (
    BIN_SIZE,
    SEQ_LENGTH,
    TARGET_LENGTH,
    small_set,
    write_basenji,
    write_fasta,
    write_hdf5,
)

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.sequence_files import read_genome
from spacescale.prepare.importers.basenji import BasenjiSet
from spacescale.prepare.importers.import_dataset import ImportOptions, import_dataset
from spacescale.prepare.importers.space_hdf5 import SpaceHdf5, files_by_split
from spacescale.verify.check import verify_species
from spacescale.verify.findings import has_errors

SCRIPT = DATA_PREP / "import_hdf5.py"


@pytest.fixture
def small():
    # No window at the edge of a contig: its BED interval would begin before 0.
    small = small_set()
    small.places[5] = ("chr1", 20, "train")
    return small


def convert(folder: Path, files: dict[str, Path], out: Path, **changes) -> SpeciesData:
    settings = {
        "species": "tiny",
        "targets": folder / "targets.txt",
        "windows": folder / "sequences.bed",
        "out": out,
    }
    options = ImportOptions(**(settings | changes))
    return SpeciesData.open(import_dataset(options, SpaceHdf5(files, BIN_SIZE)))


def test_equals_the_tfrecord_form_and_h5py(small, tmp_path):
    files = write_hdf5(tmp_path / "h5", small)
    data = convert(tmp_path / "h5", files, tmp_path / "a")
    folder = write_basenji(tmp_path / "set", small)
    other = ImportOptions(
        species="tiny",
        targets=folder / "targets.txt",
        windows=folder / "sequences.bed",
        out=tmp_path / "b",
    )
    twin = SpeciesData.open(import_dataset(other, BasenjiSet(folder)))
    assert (data.path / "windows.bed").read_text() == (twin.path / "windows.bed").read_text()
    for row in range(len(data)):
        np.testing.assert_array_equal(data.targets(row), twin.targets(row))
        np.testing.assert_array_equal(data.sequence(row), twin.sequence(row))
    with h5py.File(files["valid"]) as file:
        place = small.places[small.numbers_of("valid")[1]]
        row = data.windows.start.tolist().index(place[1])
        np.testing.assert_array_equal(data.targets(row), file["targets"][1])
        one_hot = np.eye(5, 4, dtype=bool)[data.sequence(row)]
        np.testing.assert_array_equal(one_hot, file["sequences"][1])
    data.verify()


@pytest.mark.parametrize("with_fasta", [True, False])
def test_a_split_may_use_the_bases_of_its_targets_and_the_case_of_a_fasta_is_kept(
    small, tmp_path, with_fasta
):
    files = write_hdf5(tmp_path / "h5", small)
    fasta = write_fasta(tmp_path / "genome.fa", small.genome)
    fasta.write_text(fasta.read_text().replace("ACA", "aca"))
    changes = {"fasta": fasta} if with_fasta else {}
    data = convert(tmp_path / "h5", files, tmp_path / "a", **changes)
    targets = data.windows.intervals()
    for stretch in (s for split in ("train", "valid") for s in data.stretches(split).intervals()):
        mine = [t for t in targets if (t.chrom, t.split) == (stretch.chrom, stretch.split)]
        bases = {base for target in mine for base in range(target.start, target.end)}
        assert bases.issuperset(range(stretch.start, stretch.end))
        read = data.repeats(stretch.chrom, stretch.start, stretch.end)
        letters = read_genome(fasta).lower_case(stretch.chrom)[stretch.start : stretch.end]
        assert np.array_equal(read, letters if with_fasta else np.zeros_like(letters))
    assert data.has_repeats == with_fasta
    assert not has_errors(verify_species(data.path))


def test_genome_makes_longer_inputs_possible(small, tmp_path):
    files = write_hdf5(tmp_path / "h5", small)
    fasta = write_fasta(tmp_path / "genome.fa", small.genome)
    data = convert(tmp_path / "h5", files, tmp_path / "a", fasta=fasta)
    assert data.sequence(0, SEQ_LENGTH + 100).size == SEQ_LENGTH + 100
    with pytest.raises(UserError, match="more needs the genome"):
        convert(tmp_path / "h5", files, tmp_path / "b", seq_length=SEQ_LENGTH + 2)
    assert not (tmp_path / "b").exists()


def test_rounding_is_counted_and_overflow_cut(small, tmp_path):
    values = small.targets.astype(np.float32)
    values[0, 0, 0] += values[0, 0, 0] * 2e-4
    values[3, 1, 2] = 7e4
    files = write_hdf5(tmp_path / "h5", small, values)
    report = convert(tmp_path / "h5", files, tmp_path / "a").manifest.report
    assert report.saturated_bins == {"open": 1}
    assert any("1 of 192 values were rounded" in warning for warning in report.warnings)


def test_rounding_is_to_the_nearest_float16(small, tmp_path):
    values = np.random.default_rng(1).gamma(1, 30, small.targets.shape).astype(np.float32)
    files = write_hdf5(tmp_path / "h5", small, values)
    data = convert(tmp_path / "h5", files, tmp_path / "a")
    for row in range(len(data)):
        place = (str(data.windows.chrom[row]), int(data.windows.start[row]))
        number = [p[:2] for p in small.places].index(place)
        np.testing.assert_array_equal(data.targets(row), values[number].astype(np.float16))


def rewrite(path: Path, **datasets) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)


def sequences(count: int = 1, length: int = SEQ_LENGTH) -> np.ndarray:
    return np.eye(4, dtype=bool)[np.zeros((count, length), dtype=int)]


def targets(count: int = 1, bins: int = TARGET_LENGTH, tracks: int = 3) -> np.ndarray:
    return np.zeros((count, bins, tracks), dtype=np.float32)


TWO_HOT = sequences()
TWO_HOT[0, 9] = True
REFUSALS = {
    "no targets": ({"sequences": sequences()}, "has no dataset 'targets'; it has sequences"),
    "other name": ({"x": sequences(), "targets": targets()}, "'sequences'; it has targets, x"),
    "flat": ({"sequences": sequences()[0], "targets": targets()}, r"is bool \(64, 4\); expected"),
    "text": ({"sequences": np.array([[[b"A"] * 4]]), "targets": targets()}, r"expected sequences"),
    "complex": (
        {"sequences": sequences(), "targets": targets().astype(complex)}, "targets is complex128",
    ),
    "five letters": (
        {"sequences": np.zeros((1, SEQ_LENGTH, 5), bool), "targets": targets()}, r"\(1, 64, 5\)",
    ),
    "counts": ({"sequences": sequences(2), "targets": targets(1)}, "2 sequences, but targets for"),
    "rows": ({"sequences": sequences(2), "targets": targets(2)}, "lists 1 windows of test, the"),
    "bins": (
        {"sequences": sequences(), "targets": targets(bins=6)}, "are of one set, but hold",
    ),
    "bases": ({"sequences": sequences(length=62), "targets": targets()}, "are of one set"),
    "two bases": ({"sequences": TWO_HOT, "targets": targets()}, "row 0: base 9 .* not one-hot"),
    "nan": (
        {"sequences": sequences(), "targets": targets() * np.nan}, "track up is nan in bin 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_is_wrong_and_leave_nothing(small, tmp_path, name):
    files = write_hdf5(tmp_path / "h5", small)
    datasets, message = REFUSALS[name]
    rewrite(files["test"], **datasets)
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "h5", files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is no HDF5 file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "is no HDF5 file"),
        (b"<html>", "is an HTML or XML page, not an HDF5 file: a failed download"),
        (
            gzip.compress(b"\x89HDF\r\n\x1a\n", mtime=0),
            "is compressed by gzip: unpack it with gunzip",
        ),
    ],
)
def test_other_files_are_refused(small, tmp_path, content, message):
    files = write_hdf5(tmp_path / "h5", small)
    files["test"].write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "h5", files, tmp_path / "out")


@pytest.mark.parametrize(
    "bases, values",
    [("int8", "int16"), ("int64", "int64"), ("uint8", "uint32"), ("float16", "float64"),
     ("float64", ">i4"), ("uint64", "uint16"), ("bool", ">f4")],
)  # fmt: skip
def test_every_type_of_numbers_gives_the_same_dataset(small, tmp_path, bases, values):
    small.targets = small.targets.round()
    small.targets[1, 2, 0] = 2_001
    files = write_hdf5(tmp_path / "h5", small, small.targets.astype(values))
    for path in files.values():
        with h5py.File(path, "r+") as file:
            stored = file["sequences"][:]
            del file["sequences"]
            file["sequences"] = stored.astype(bases)
    data = convert(tmp_path / "h5", files, tmp_path / "a")
    plain = convert(tmp_path / "h5", write_hdf5(tmp_path / "h5", small), tmp_path / "b")
    for row in range(len(plain)):
        np.testing.assert_array_equal(data.targets(row), plain.targets(row))
        np.testing.assert_array_equal(data.sequence(row), plain.sequence(row))
    assert data.manifest.report.warnings == []


def test_bools_and_numbers_beyond_float16(small, tmp_path):
    files = write_hdf5(tmp_path / "h5", small, small.targets > 2)
    data = convert(tmp_path / "h5", files, tmp_path / "a")
    assert set(np.concatenate([data.targets(row) for row in range(len(data))]).flat) == {0, 1}
    values = small.targets.round().astype(np.int64)
    values[0, 0, 0], values[3, 1, 2], values[4, 0, 1] = 2_049, 70_000, -(2**62)
    files = write_hdf5(tmp_path / "h5", small, values)
    report = convert(tmp_path / "h5", files, tmp_path / "b").manifest.report
    assert report.saturated_bins == {"down": 1, "open": 1}
    assert any("1 of 192 values were rounded" in warning for warning in report.warnings)


def test_truncated_file_is_refused(small, tmp_path):
    files = write_hdf5(tmp_path / "h5", small)
    data = files["train"].read_bytes()
    files["train"].write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(UserError, match=r"tiny_train.h5 .* copy it again"):
        convert(tmp_path / "h5", files, tmp_path / "out")


def test_bins_that_do_not_fit_are_refused(small, tmp_path):
    files = write_hdf5(tmp_path / "h5", small)
    with pytest.raises(UserError, match="--bin-size 16: 8 bins of 16 bp do not lie"):
        SpaceHdf5(files, 16)


def test_splits_come_from_names():
    names = ["a/human_train.h5", "a/human-val.h5", "test.h5", "fold3=x.h5"]
    assert files_by_split(names) == {
        "train": Path("a/human_train.h5"),
        "valid": Path("a/human-val.h5"),
        "test": Path("test.h5"),
        "fold3": Path("x.h5"),
    }
    assert files_by_split(["train=~/x.h5"]) == {"train": Path.home() / "x.h5"}
    with pytest.raises(UserError, match=r"https://x.org/a.h5 is a URL"):
        files_by_split(["train=https://x.org/a.h5"])
    with pytest.raises(UserError, match=r"write train=data.h5"):
        files_by_split(["data.h5"])
    with pytest.raises(UserError, match=r"split valid: both"):
        files_by_split(["a_val.h5", "b_valid.h5"])


def test_command(small, tmp_path):
    files = write_hdf5(tmp_path / "h5", small)
    command = [
        SCRIPT, *files.values(), "--species", "tiny", "--out", tmp_path / "out",
        "--targets", tmp_path / "h5/targets.txt", "--bin-size", str(BIN_SIZE),
    ]  # fmt: skip
    done = run_here(*command)
    assert done.returncode == 2 and "--no-windows" in done.stderr
    windows = ["--windows", tmp_path / "h5/sequences.bed"]
    done = run(sys.executable, *command, *windows)
    assert done.returncode == 0, done.stderr
    assert "train 5, valid 2, test 1" in done.stdout
    done = run_here(*command, "--no-windows", "--overwrite")
    assert done.returncode == 0, done.stderr
