"""Every file of ds_configs trains two processes for a step, or says why it cannot here."""

from pathlib import Path

import pytest
import torch
from equivalence import OPTIM, WINDOWS, batch, fresh_model, loss_terms, total

from spacescale.errors import UserError
from spacescale.parallel import comm
from spacescale.parallel.engine import (
    build_engine,
    read_deepspeed_config,
    resolve_deepspeed_config,
)
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.testing.ranks import run_ranks

FOLDER = Path(__file__).parents[2] / "ds_configs"
GPUS_ONLY = {"zero2_fp16"}
BF16 = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}


def train(config: dict, name: str) -> float:
    """One micro-step of a model whose experts are spread over both processes."""
    micro = sum(WINDOWS.values()) // 2
    config |= {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": 1}
    model = fresh_model()
    distribute_experts(model, ep_size=2)
    synchronise_batchnorm(model)
    engine = build_engine(model, OPTIM, resolve_deepspeed_config(config, name, micro))
    loss = total(loss_terms(engine, batch(0, comm.rank(), 2), comm.sum_over_ranks))
    engine.backward(loss)
    engine.step()
    assert torch.isfinite(torch.tensor(float(engine.get_global_grad_norm())))
    return float(loss.detach())


def train_all() -> dict[str, float]:
    names = sorted({path.stem for path in FOLDER.glob("*.json")} - GPUS_ONLY)
    found = {name: train(read_deepspeed_config(FOLDER / f"{name}.json"), name) for name in names}
    return found | {"bf16": train(read_deepspeed_config(FOLDER / "zero2_moe.json") | BF16, "bf16")}


@pytest.fixture(scope="module")
def losses():
    one, two = run_ranks(train_all, 2)
    return {name: (loss + two[name]) / 2 for name, loss in one.items()}


def test_every_configuration_trains_and_gives_the_same_loss(losses):
    assert {"zero1", "zero2_moe", "zero3_moe", "zero2_offload", "8xA40", "8xH100"} < losses.keys()
    expected = losses["zero2_moe"]
    for name, loss in losses.items():
        assert loss == pytest.approx(expected, rel=2e-2 if name == "bf16" else 1e-5), name
    assert losses["bf16"] != expected


def test_fp16_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = read_deepspeed_config(FOLDER / "zero2_fp16.json")
    with pytest.raises(UserError, match=r"torch_autocast.dtype='float16' needs GPUs; write 'auto'"):
        resolve_deepspeed_config(config, "zero2_fp16.json", 1)
