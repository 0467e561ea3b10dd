"""The whole model on a GPU: precision, plans, and the way of the data to it."""

import numpy as np
import pytest
import torch
from gpu_models import CUDA, DEVICE, TRACKS, bf16, loss_of, model, windows

from spacescale.config import Config
from spacescale.dataset.loader import BatchesOnDevice, TrainingWindows, training_batches
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.overrides import build_config
from spacescale.planning.measure import measure
from spacescale.planning.plan import make_plan
from spacescale.planning.states import Layout
from spacescale.testing.made_up_data import MadeUpWindows

STEPS = 40


def losses(half: bool) -> list[float]:
    trained = model()
    optimiser = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    found = []
    for step in range(STEPS):
        codes, targets = windows(trained.config, seed=step % 4)
        with bf16(half):
            loss = loss_of(trained, codes, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found


def test_bf16_and_fp32_losses_agree(record_property):
    exact, rounded = losses(False), losses(True)
    record_property("fp32", exact[-1])
    record_property("bf16", rounded[-1])
    assert exact != rounded and exact[-1] < exact[0]
    assert np.mean(rounded[-10:]) == pytest.approx(np.mean(exact[-10:]), rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_is_what_was_planned(precision, record_property):
    """What is kept for the backward pass and for the optimiser, to 10 %; the peak is shown."""
    size = ["model.seq_length=8192", "model.target_length=48", "model.dim=96", "model.depth=2"]
    values = build_config("space_tiny", size).model_dump()
    values["model"]["species"] = {"human": TRACKS * 15, "mouse": TRACKS * 8}
    config, count = Config.model_validate(values), {"human": 2, "mouse": 2}
    plan = make_plan(config, Layout(1, 0, 1), count, precision, on_gpu=CUDA)
    measured = measure(config, count, precision, DEVICE)
    kept = sum(plan.activations.kept.values())
    record_property("kept_to_plan", measured.activations / kept)
    record_property("peak_to_plan", measured.peak_gib * 2**30 / plan.total_bytes)
    assert measured.activations == pytest.approx(kept, rel=0.1)
    for name in ("weights", "gradients", "optimiser"):
        assert getattr(measured.states, name) == pytest.approx(getattr(plan.states, name), rel=1e-3)


@pytest.mark.parametrize("readers", [0, 2])
def test_batches_arrive_on_the_device_as_they_are_read(tmp_path, readers):
    data = SpeciesData.open(MadeUpWindows(12, 48, 16, 2048, 32).write(tmp_path / "finch"))
    order = SampleOrder(0, {"finch": 12}, 1.0, 4, 1, 3, True)
    training = TrainingWindows({"finch": data}, order, 0, 2048, 0)
    read = training_batches(training, 0, 6, readers, pin_memory=CUDA)
    work = torch.randn(2048, 2048, device=DEVICE)
    sums = []
    for batch in (batches := BatchesOnDevice(read, DEVICE)):
        for _ in range(20 if CUDA else 1):
            work = (work @ work).clamp(-1, 1)
        sums.append(batch["finch"].targets.double().sum() + batch["finch"].codes.sum())
        batches.copy_next()
    expected = [training[i]["finch"] for i in range(6)]
    for found, batch in zip(sums, expected, strict=True):
        assert float(found) == float(batch.targets.double().sum() + batch.codes.sum())
