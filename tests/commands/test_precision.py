"""bf16 autocast trains as fp32 does, on the embedded data."""

import json
import subprocess
import sys

import pytest
from commands import REPO, SCRIPT, environment

STEPS = 300


def mean_loss(folder, autocast):
    """Training loss over the last 50 steps; both precisions see the same windows."""
    config = json.loads((REPO / "ds_configs/zero2_moe.json").read_text())
    config["torch_autocast"] = {"enabled": autocast, "dtype": "bfloat16"}
    folder.mkdir()
    (folder / "deepspeed.json").write_text(json.dumps(config))
    command = [sys.executable, SCRIPT, "--deepspeed", folder / "deepspeed.json"]
    command += ["--output", folder / "run", f"optim.max_steps={STEPS}", "run.log_every=1"]
    done = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    losses = [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]
    assert len(losses) == STEPS
    return sum(losses[-50:]) / 50


@pytest.mark.slow
def test_bf16_and_fp32_losses_agree_after_300_steps(tmp_path):
    exact, rounded = (mean_loss(tmp_path / str(on), on) for on in (False, True))
    print(f"mean loss of the last 50 of {STEPS} steps: fp32 {exact:.5f}, bf16 {rounded:.5f}")
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.01)
