"""Imported sets feed training: human and mouse together, with 74 and 32 tracks."""

import sys

import pytest
from commands import DEEPSPEED_JSON, REPO, SCRIPT, TINY, run

from spacescale.metrics.writer import read_metrics

REAL = REPO.parent / "shared/data"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real data sets are not in {REAL}")
def test_human_and_mouse_train_together(tmp_path):
    for species, folder in (("human", "human_hg38"), ("mouse", "mouse_mm10")):
        done = run(
            sys.executable, "data_prep/import_hdf5.py",
            *sorted((REAL / folder / "space_h5").glob("*.h5")), "--species", species,
            "--windows", REAL / folder / "tfrecords_ds/sequences.bed",
            "--targets", REAL / folder / "tfrecords_ds/targets.txt",
            "--bin-size", 128, "--out", tmp_path / "datasets",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = run(
        sys.executable, SCRIPT, "--deepspeed", DEEPSPEED_JSON, *TINY,
        "--data", tmp_path / "datasets/human", tmp_path / "datasets/mouse",
        "--output", tmp_path / "run", "model.num_downsamples=7", "model.target_length=512",
        "model.seq_length=65536", "data.micro_batch_size=1", "optim.max_steps=2",
        "run.valid_every=2", "run.valid_windows=2", "run.save_every=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/DONE").exists()
    logged = {name for record in read_metrics(tmp_path / "run/metrics.jsonl") for name in record}
    assert any("human" in name for name in logged) and any("mouse" in name for name in logged)
