"""Training on a GPU as users start it: every configuration, saving, resuming, converting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_models import CUDA, DEVICE, apart, bf16, loss_of, model, windows

from spacescale.config import OptimConfig
from spacescale.metrics.writer import read_metrics
from spacescale.testing.made_up_data import MadeUpWindows

REPO = Path(__file__).parents[2]
CONFIGURATIONS = sorted((REPO / "ds_configs").glob("*.json"))
TINY = [
    "--preset=space_tiny", "model.seq_length=4096", "model.target_length=24", "model.depth=2",
    "optim.max_steps=4", "optim.warmup_steps=1", "run.log_every=1", "run.valid_every=2",
    "run.save_every=2", "data.num_workers=2",
]  # fmt: skip


@pytest.fixture(scope="session")
def process_group():
    """One process joined to a group of its own, as `init_distributed` makes it."""
    from spacescale.parallel.engine import init_distributed

    yield init_distributed()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_step_of_every_configuration(path, process_group, record_property):
    """In one process, which holds all experts: the loss is that of the plain model."""
    from spacescale.parallel.engine import (
        build_engine,
        read_deepspeed_config,
        resolve_deepspeed_config,
    )
    from spacescale.parallel.expert_parallel import distribute_experts

    config = read_deepspeed_config(path)
    config |= {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    trained = model()
    codes, targets = windows(trained.config)
    with bf16(CUDA):
        expected = loss_of(trained, codes, targets).detach()
    trained = model()
    distribute_experts(trained, ep_size=1)
    engine = build_engine(trained, OptimConfig(lr=1e-3), resolve_deepspeed_config(config, "x", 4))
    losses = []
    for _ in range(6):
        loss = loss_of(engine, codes, targets)
        engine.backward(loss)
        engine.step()
        losses.append(loss.detach())
    norm = float(engine.get_global_grad_norm())
    record_property("norm", norm)
    assert 0 < norm < float("inf")
    assert apart(losses[0], expected) < (1e-2 if CUDA else 1e-5)
    assert losses[-1] < losses[0]
    engine.destroy()


def run(*arguments) -> subprocess.CompletedProcess:
    """A command of this package, as a process of its own."""
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name not in launcher}
    env["PYTHONPATH"] = os.pathsep.join([str(REPO), *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def train(data: Path, output: Path, *more) -> tuple[dict[int, float], str]:
    """Loss by step, and what was said."""
    settings = ["--deepspeed", "ds_configs/zero2_moe.json", "--data", data, "--output", output]
    done = run("spacescale/pretrain.py", *settings, *TINY, *more)
    records = read_metrics(output / "metrics.jsonl")
    losses = {r["step"]: r["train/loss"] for r in records if "train/loss" in r}
    return losses, done.stdout + done.stderr


def test_train_save_resume_convert(tmp_path, record_property):
    data = tmp_path / "data"
    for name, tracks in (("finch", 16), ("perch", 8)):
        MadeUpWindows(14, 24, tracks, 4096, 128, num_valid=2).write(data / name)
    whole, said = train(data, tmp_path / "whole")
    assert sorted(whole) == [1, 2, 3, 4] and (tmp_path / "whole/DONE").is_file()
    kernel = "efficient_attention kernel in bfloat16" if CUDA else "math kernel in float32"
    assert f"attention by torch's {kernel}" in said
    first = next((tmp_path / "whole/checkpoints").glob("*2"))
    resumed, _ = train(data, tmp_path / "resumed", "--resume", first)
    assert sorted(resumed) == [3, 4]
    for step, loss in resumed.items():
        assert loss == pytest.approx(whole[step], rel=1e-3 if CUDA else 1e-6)
    record_property("resumed_apart", max(abs(resumed[s] / whole[s] - 1) for s in resumed))
    export = tmp_path / "export"
    run("-m", "spacescale.cli", "convert", tmp_path / "whole", "--out", export)

    from spacescale.model import Space

    codes = torch.randint(0, 4, (1, 4096), dtype=torch.uint8, device=DEVICE)
    with torch.no_grad():
        predicted = Space.from_pretrained(export).to(DEVICE)({"finch": codes}).prediction
    assert predicted["finch"].shape == (1, 24, 16) and predicted["finch"].isfinite().all()
