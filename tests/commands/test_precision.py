"""Autocast trains as fp32 does, on the embedded data: bf16 anywhere, fp16 on GPUs."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import REPO, SCRIPT, environment

STEPS = 300


def mean_loss(folder, autocast, dtype="bfloat16", device="cpu"):
    """Training loss over the last 50 steps; both precisions see the same windows."""
    config = json.loads((REPO / "ds_configs/zero2_moe.json").read_text())
    config["torch_autocast"] = {"enabled": autocast, "dtype": dtype}
    folder.mkdir()
    (folder / "deepspeed.json").write_text(json.dumps(config))
    command = [sys.executable, SCRIPT, "--deepspeed", folder / "deepspeed.json"]
    command += ["--output", folder / "run", f"optim.max_steps={STEPS}", "run.log_every=1"]
    env = environment(DS_ACCELERATOR=device)
    done = subprocess.run(
        list(map(str, command)), env=env, capture_output=True, text=True, cwd=REPO
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_and_fp32_losses_agree_after_300_steps(tmp_path):
    exact = mean_loss(tmp_path / "fp32", False, device="cuda")
    rounded = mean_loss(tmp_path / "fp16", True, dtype="float16", device="cuda")
    print(f"mean loss of the last 50 of {STEPS} steps: fp32 {exact:.5f}, fp16 {rounded:.5f}")
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.01)
