"""Training from tar shards, as a user exports and uses them, is the training from zarr."""

import sys

import pytest
from commands import DATA_PREP, SCRIPT, arguments, run, run_here

from spacescale.metrics.writer import read_metrics

pytestmark = pytest.mark.long

TIMED = ("speed/", "time")


def numbers(output):
    """Everything that was logged but how long it took."""
    return [
        {name: value for name, value in record.items() if not name.startswith(TIMED)}
        for record in read_metrics(output / "metrics.jsonl")
    ]


def test_export_verify_and_train_from_tar_shards(data, alone, tmp_path):
    exported = tmp_path / "tar"
    done = run(
        sys.executable, "data_prep/export_webdataset.py", data, "--out", exported,
        "--windows-per-shard", 5,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "next: deepspeed spacescale/pretrain.py" in done.stdout
    assert (exported / "finch/shards/targets-000002.tar").is_file()
    output, more = tmp_path / "run", ["optim.max_steps=3", "data.num_workers=1"]
    done = run(sys.executable, SCRIPT, *arguments(exported, output, *more))
    assert done.returncode == 0, done.stderr
    from_zarr, from_tar = numbers(alone[0]), numbers(output)
    assert sum("train/loss" in record for record in from_tar) == 3
    assert from_tar == from_zarr

    shard = exported / "moth/shards/targets-000001.tar"
    content = bytearray(shard.read_bytes())
    content[content.index(b".targets.pco") + 512 + 60] ^= 16
    shard.write_bytes(content)
    done = run_here(DATA_PREP / "verify.py", exported)
    assert done.returncode == 1, done.stderr
    assert f"{exported / 'finch'}: sound, 0 errors" in done.stdout
    assert f"  {shard}, rows 5 to 9: differs from its SHA-256" in done.stdout


def test_an_export_onto_itself_is_refused(data):
    done = run_here(DATA_PREP / "export_webdataset.py", data, "--out", data)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "is the dataset itself" in done.stderr
