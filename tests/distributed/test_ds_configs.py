"""Every file of ds_configs trains two processes, saves and converts, in fp32 and bf16."""

import re
from pathlib import Path

import pytest
import torch
from equivalence import (
    LOSS,
    MODEL,
    OPTIM,
    WINDOWS,
    batch,
    fresh_model,
    loss_terms,
    on_all_ranks,
    total,
)
from no_data import no_data

from spacescale.checkpoint.compatibility import lay_out
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.manager import CheckpointManager
from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.objectives import objective_of
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
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PRECISIONS = ("fp32", "bf16")
ROUNDED = ("zero3_moe", "bf16", 0)
CASES = [(name, precision, whole) for name in NAMES for precision in PRECISIONS for whole in (1, 0)]


def configuration(name: str, precision: str, whole: int) -> dict:
    """whole: whether ZeRO-3 keeps weights as small as these whole between steps, as by default."""
    config = read_deepspeed_config(FOLDER / f"{name}.json")
    config["torch_autocast"] = {"enabled": precision == "bf16", "dtype": "bfloat16"}
    config["zero_optimization"] |= {} if whole else {"stage3_param_persistence_threshold": 0}
    micro = sum(WINDOWS.values()) // 2
    return config | {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": 1}


def train(output: Path, config: dict, save: bool = True) -> list[float]:
    """Two micro-steps, with a checkpoint in between, of experts spread over both processes."""
    model = fresh_model()
    distribute_experts(model, ep_size=2)
    synchronise_batchnorm(model)
    resolved = resolve_deepspeed_config(config, output.name, 1)
    engine = build_engine(model, OPTIM, resolved)
    settings = Config(model=MODEL, optim=OPTIM, loss=LOSS)
    data, device = no_data(MODEL.species), torch.device("cpu")
    laid_out = lay_out(resolved, 2)
    objective = objective_of(settings)
    manager = CheckpointManager(output, objective, data, engine, laid_out, model, device)
    losses = []
    for step in range(2):
        here = batch(step, comm.rank(), 2)
        loss = total(loss_terms(engine, here, comm.sum_over_ranks, on_all_ranks(step)))
        engine.backward(loss)
        engine.step()
        assert torch.isfinite(torch.tensor(float(engine.get_global_grad_norm())))
        losses.append(float(loss.detach()))
        if step == 0 and save:
            manager.save(1, {}, 0.0, False, with_probe=True)
            manager.finish()
    return losses


def run_all(folder: Path) -> tuple[dict[tuple, list[float]], list[float]]:
    """Losses of all cases, and of the one whose weights are gathered in bf16 without a save."""
    found = {}
    for case in CASES:
        found[case] = train(folder / "-".join(map(str, case)), configuration(*case))
    return found, train(folder / "unsaved", configuration(*ROUNDED), save=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configurations")


@pytest.fixture(scope="module")
def losses(folder):
    (one, unsaved), (two, _) = run_ranks(run_all, 2, folder)
    assert one[ROUNDED] == unsaved, "a save changes what is trained"
    means = {case: torch.tensor([one[case], two[case]]).mean(0).tolist() for case in CASES}
    assert len(NAMES) >= 7 and len(means) == 4 * len(NAMES)
    return means


@pytest.mark.long
def test_every_configuration_trains_and_gives_the_same_losses(losses):
    expected = losses["zero2_moe", "fp32", 1]
    for (name, precision, whole), found in losses.items():
        tolerance = 2e-2 if precision == "bf16" else 1e-5
        assert found == pytest.approx(expected, rel=tolerance), (name, precision, whole)
    assert losses["zero2_moe", "bf16", 1] != expected


@pytest.mark.long
@pytest.mark.parametrize("name, precision, whole", CASES)
def test_every_configuration_saves_what_converts(losses, folder, tmp_path, name, precision, whole):
    found = convert(folder / f"{name}-{precision}-{whole}", tmp_path / "export")
    assert found.difference < 1e-5
    assert found.choices > 0 and found.turned == 0


def refusal(tmp_path, changes: dict) -> str:
    config = read_deepspeed_config(FOLDER / "zero2_moe.json") | changes
    with pytest.raises(UserError) as caught:
        resolve_deepspeed_config(config, "my.json", 1)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "fp16", "half", "torch.float16", "float32", None])
def test_autocast_to_anything_but_bfloat16_is_refused_with_the_reason(tmp_path, dtype):
    changes = {"torch_autocast": {"enabled": True, "dtype": dtype}}
    message = refusal(tmp_path, changes)
    assert re.match(rf"my.json: torch_autocast.dtype={dtype!r}; write 'bfloat16'", message)
    assert "float16 cannot train under ZeRO" in message


def test_fp16_is_refused_with_the_reason(tmp_path):
    assert "float16 cannot train under ZeRO" in refusal(tmp_path, {"fp16": {"enabled": True}})


@pytest.mark.parametrize(
    "changes", [{"communication_data_type": "FP16"}, {"data_types": {"grad_accum_dtype": "fp16"}}]
)
def test_gradients_in_float16_are_refused(tmp_path, changes):
    assert "past 65,504 are infinite in float16" in refusal(tmp_path, changes)


@pytest.mark.parametrize("key", ["bf16", "bfloat16"])
def test_weights_in_bfloat16_are_refused(tmp_path, key):
    assert f"switch {key!r} off" in refusal(tmp_path, {key: {"enabled": True}})


def test_autocast_that_is_no_object_is_refused(tmp_path):
    assert "torch_autocast=True must be an object" in refusal(tmp_path, {"torch_autocast": True})


@pytest.mark.parametrize("native, wanted", [(True, True), (False, False)])
def test_auto_takes_bfloat16_only_where_the_card_has_it(monkeypatch, native, wanted):
    def supported(including_emulation=True):
        return native or including_emulation  # a V100 or T4 emulates it

    monkeypatch.setattr(comm, "uses_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    config = read_deepspeed_config(FOLDER / "zero2_moe.json")
    assert resolve_deepspeed_config(config, "my.json", 1)["torch_autocast"]["enabled"] is wanted


# ---- Windows per step ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "world, at_most, changes, expected",  # windows per process and micro-step, micro-steps
    [
        (1, 16, {}, (16, 1)),
        (8, 16, {}, (2, 1)),
        (2, 3, {}, (2, 4)),
        (4, 4, {}, (4, 1)),
        (2, 16, {"train_micro_batch_size_per_gpu": 4}, (4, 2)),
        (2, 2, {"train_batch_size": 16, "gradient_accumulation_steps": "auto"}, (2, 4)),
    ],
)
def test_micro_batch_and_accumulation_follow_from_the_windows_of_a_step(
    monkeypatch, world, at_most, changes, expected
):
    monkeypatch.setattr(comm, "world_size", lambda: world)
    config = read_deepspeed_config(FOLDER / "zero2_moe.json") | changes
    found = resolve_deepspeed_config(config, "my.json", at_most, 16)
    names = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")
    assert tuple(found[name] for name in names) == (*expected, 16)


def test_an_accumulation_that_gives_way_is_named(monkeypatch, caplog):
    config = read_deepspeed_config(FOLDER / "8xA40.json")
    monkeypatch.setattr(comm, "world_size", lambda: 4)
    resolve_deepspeed_config(config, "my.json", 2, 128)
    (message,) = caplog.messages
    assert message.startswith("my.json: gradient_accumulation_steps=8 gives way to 16, from data.")
    caplog.clear()
    monkeypatch.setattr(comm, "world_size", lambda: 8)
    resolve_deepspeed_config(config, "my.json", 2, 128)
    assert not caplog.messages


@pytest.mark.parametrize(
    "world, changes, message",
    [
        (3, {}, "data.global_batch_size=16 does not divide by 3 processes; take 15, or another"),
        (32, {}, "data.global_batch_size=16 does not divide by 32 processes; take 32"),
        (2, {"train_batch_size": 8}, "train_batch_size=8 is not data.global_batch_size=16; leave"),
    ],
)
def test_windows_of_a_step_that_cannot_be_are_refused(monkeypatch, world, changes, message):
    monkeypatch.setattr(comm, "world_size", lambda: world)
    config = read_deepspeed_config(FOLDER / "zero2_moe.json") | changes
    with pytest.raises(UserError, match=message):
        resolve_deepspeed_config(config, "my.json", 4, 16)
