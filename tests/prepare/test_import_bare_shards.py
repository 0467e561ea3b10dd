"""Folders of .tfr files alone, whose sizes are given on the command line."""

import re

import numpy as np
import pytest
from commands import DATA_PREP, run_here
from imported_sets import BIN_SIZE, SEQ_LENGTH, TARGET_LENGTH, small_set, write_basenji

from spacescale.dataset.reader import SpeciesData

SCRIPT = DATA_PREP / "import_tfrecords.py"
BARE_SIZES = ["--record-length", SEQ_LENGTH, "--bin-size", BIN_SIZE,
              "--target-length", TARGET_LENGTH]  # fmt: skip


@pytest.fixture
def bare(tmp_path):
    """Nothing but shards; the table lies elsewhere."""
    folder = write_basenji(tmp_path / "set", small_set())
    shards = (folder / "tfrecords").rename(tmp_path / "shards")
    return [SCRIPT, shards, "--species", "tiny", "--out", tmp_path / "out",
            "--targets", folder / "targets.txt"]  # fmt: skip


def test_a_folder_of_shards_alone_is_read_with_its_sizes_given(bare, tmp_path):
    done = run_here(*bare)
    assert done.returncode == 2
    assert "A folder of .tfr files alone needs --record-length, --bin-size and" in done.stderr
    done = run_here(*bare, *BARE_SIZES)
    assert (done.returncode, done.stderr.count("--no-windows imports all the same")) == (2, 1)
    done = run_here(*bare, *BARE_SIZES, "--windows", tmp_path / "set/sequences.bed")
    assert (done.returncode, done.stderr) == (0, "")
    data, small = SpeciesData.open(tmp_path / "out/tiny"), small_set()
    starts = zip(data.windows.chrom.tolist(), data.windows.start.tolist(), strict=True)
    for row, (place, split) in enumerate(zip(starts, data.windows.split.tolist(), strict=True)):
        number = small.places.index((*place, split))
        np.testing.assert_array_equal(data.targets(row), small.targets[number])
        np.testing.assert_array_equal(data.sequence(row), small.codes(number))
    done = run_here(*bare, *BARE_SIZES, "--no-windows", "--overwrite", "--workers", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train 5, valid 2, test 1" in done.stdout


@pytest.mark.parametrize(
    "changes, message",
    [
        (["--target-length", 6], "does not fit --record-length, --bin-size and --target-length: "),
        # As many bytes as half the bins have in float32.
        (["--target-length", TARGET_LENGTH // 2], "4 bins of 3 tracks are 24 bytes of float16"),
        (
            ["--record-length", SEQ_LENGTH // 4, "--target-length", 2],
            "of its sequence is .*not one",
        ),
        (["--record-length", 0], "go together"),
        (["--record-length", 20], "bins of 4 bp do not lie in the centre of sequences of 20 bp"),
    ],
)
def test_wrong_sizes_are_refused(bare, tmp_path, changes, message):
    done = run_here(*bare, *BARE_SIZES, "--no-windows", *changes)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_sizes_beside_statistics_and_shards_without_a_split_are_refused(bare, tmp_path):
    bare[1] = tmp_path / "set"
    (tmp_path / "shards").rename(tmp_path / "set/tfrecords")
    done = run_here(*bare, *BARE_SIZES, "--no-windows")
    assert done.returncode == 2 and "statistics.json tells the sizes" in done.stderr
    (tmp_path / "set/statistics.json").unlink()
    shard = tmp_path / "set/tfrecords/train-0.tfr"
    shard.rename(shard.with_name("0.tfr"))
    done = run_here(*bare, *BARE_SIZES, "--no-windows")
    assert done.returncode == 2 and "0.tfr: expected a name such as train-0.tfr" in done.stderr
