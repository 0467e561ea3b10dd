"""The HDF5 files of Tang and Koo, as small ones."""

import h5py
import numpy as np
import pytest

from spacescale.errors import UserError
from spacescale.genome.dna import N, reverse_complement
from spacescale.tasks import archive_files
from spacescale.tasks.duplicates import find_duplicates, without_copies
from spacescale.tasks.read_task import read_task

SIZES = {"train": 12, "valid": 5, "test": 6}


def sequences(seed, number, length=20):
    return np.random.default_rng(seed).integers(0, 4, (number, length)).astype(np.uint8)


def one_hot(codes):
    return np.eye(N + 1, dtype=np.float32)[codes][..., :N]


def splits(length=20):
    return {s: sequences(i, n, length) for i, (s, n) in enumerate(SIZES.items())}


def write(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def written(path, x="x_", y="y_", codes=None, values=None, turned=False):
    """An archive of one-hot sequences and numbers by split."""
    codes = codes or splits()
    arrays = {}
    for split, found in codes.items():
        bases = one_hot(found)
        arrays[x + split] = bases.swapaxes(1, 2) if turned else bases
        arrays[y + split] = values[split]
    return write(path, **arrays)


def numbers(maker):
    return {s: maker(np.random.default_rng(i + 9), n) for i, (s, n) in enumerate(SIZES.items())}


def same(task, codes):
    for split, found in codes.items():
        np.testing.assert_array_equal(np.stack(task.splits[split].codes), found)


def test_lentimpra(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_files, "AT_ONCE", 5)  # several parts of one dataset
    codes = splits(40)
    for found in codes.values():
        found[:, :15], found[:, -15:] = 1, 0  # adapters, other ones on the other strand
    codes["train"][2, 20] = N
    codes["test"][1, 15:-15] = reverse_complement(codes["train"][3, 15:-15])
    values = numbers(lambda r, n: r.normal(size=(n, 1)))
    path = written(tmp_path / "K562_data.h5", "onehot_", codes=codes, values=values)
    task = read_task(path)
    same(task, codes)
    assert (task.name, task.layout, task.kind) == ("K562_data", "archive", "values")
    assert task.assay == "lentimpra"
    np.testing.assert_allclose(task.splits["test"].targets, values["test"], rtol=1e-6)
    assert any("adapters are left on" in note for note in task.notes)
    # The other orientation of an element between the same adapters is the same element.
    assert find_duplicates(task).shared_groups["train", "test"] == 1
    assert 1 not in without_copies(task)


@pytest.mark.parametrize("kind", ["S", "O"])
def test_sequences_as_letters(tmp_path, kind):
    codes, values = splits(), numbers(lambda r, n: r.normal(size=n))
    arrays = {f"y_{s}": v for s, v in values.items()}
    for split, found in codes.items():
        letters = ["".join("ACGT"[c] for c in row) for row in found]
        arrays[f"seq_{split}"] = np.array(letters, "S" if kind == "S" else h5py.string_dtype())
    same(read_task(write(tmp_path / "a.h5", **arrays)), codes)


def test_chip_and_eclip(tmp_path):
    codes = splits()
    values = numbers(lambda r, n: np.arange(n).reshape(-1, 1) % 2)
    path = written(tmp_path / "chip.h5", codes=codes, values=values)
    task = read_task(path)
    same(task, codes)
    assert (task.kind, task.outputs) == ("labels", ("bound",))
    np.testing.assert_array_equal(task.splits["train"].targets, values["train"])
    turned = written(tmp_path / "eclip.h5", "X_", "Y_", codes, values, turned=True)
    task = read_task(turned)
    same(task, codes)
    assert task.kind == "labels" and task.assay == "chip" and task.notes == []
    assert read_task(path, kind="classes").outputs == ("0", "1")


def test_more_than_bases_of_eclip_are_left(tmp_path):
    codes, values = splits(), numbers(lambda r, n: np.arange(n) % 2)
    arrays = {f"Y_{s}": v for s, v in values.items()}
    for split, found in codes.items():
        bases = one_hot(found).swapaxes(1, 2)
        arrays[f"X_{split}"] = np.concatenate([bases, np.ones_like(bases[:, :1])], axis=1)
    same(read_task(write(tmp_path / "a.h5", **arrays)), codes)


def test_insert_seq_is_read_as_logarithms(tmp_path):
    values = numbers(lambda r, n: r.integers(0, 500, (n, 2)).astype(float))
    task = read_task(written(tmp_path / "a.h5", "X_", "Y_", values=values))
    wanted = np.log(values["valid"][:, :1] + 1)
    np.testing.assert_allclose(task.splits["valid"].targets, wanted, rtol=1e-6)
    assert task.outputs == ("value",) and "log(1 + y)" in task.notes[0]
    assert task.assay == "insertseq"


def exons(random, number):
    """Log-odds of 12 tissues; of the last one two are known, of that before none differs."""
    mean = np.repeat(random.normal(size=(number, 1)), 12, axis=1)
    values = np.stack([3 * random.normal(size=(number, 12)), mean], axis=2)
    values[0, 3, 0] = np.nan
    values[-1, 2:, 0], values[-2, :, 0] = np.nan, 0.01
    return values


@pytest.mark.parametrize("halves", [False, True])
def test_splicing(tmp_path, halves):
    codes, values = splits(), numbers(exons)
    arrays = {f"y_{s}": v for s, v in values.items()}
    for split, found in codes.items():
        bases = one_hot(found)
        parts = {"xl_": bases[:, :10], "xr_": bases[:, 10:]} if halves else {"x_": bases}
        arrays |= {name + split: part for name, part in parts.items()}
    task = read_task(write(tmp_path / "delta_logit.h5", **arrays))
    same(task, codes | {"test": codes["test"][:-2]})
    train, test = task.splits["train"], task.splits["test"]
    assert (task.kind, task.assay, len(task.outputs)) == ("values", "splicing", 12)
    np.testing.assert_allclose(train.targets, values["train"][..., 0], rtol=1e-6)
    assert train.offsets is not None and test.offsets is not None
    np.testing.assert_allclose(test.offsets, values["test"][:-2, :, 1], rtol=1e-6)
    np.testing.assert_array_equal(train.take(np.array([4])).offsets, train.offsets[4:5])
    assert "no gap" in task.notes[0] and "tested on 4 of 6 exons" in task.notes[1]


def test_what_does_not_fit_is_named(tmp_path):
    values = numbers(lambda r, n: r.normal(size=n))

    def refused(message, **changes):
        path = written(tmp_path / "a.h5", values=values)
        with h5py.File(path, "a") as file:
            for name, array in changes.items():
                del file[name]
                if array is not None:
                    file[name] = array
        with pytest.raises(UserError, match=message):
            read_task(path)

    refused(r"a.h5: no dataset onehot_train, .*; it has x_test", x_train=None)
    refused(r"a.h5: no test split in its datasets", x_test=None)
    refused(r"a.h5: no dataset y_test; it has", y_test=None)
    refused(r"x_train is float64 \(12, 3\), expected \(N, L, 4\)", x_train=np.ones((12, 3)))
    refused(r"y_valid is float64 \(4,\), expected numbers \(5,\)", y_valid=np.ones(4))
    refused(r"train row 3: value 'inf'", y_train=np.r_[1.0, 2, np.inf, np.ones(9)])
