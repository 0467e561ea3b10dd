"""The optimiser that DeepSpeed is given, without DeepSpeed."""

from types import SimpleNamespace

import deepspeed
import pytest
import torch
from torch import nn

from spacescale.config import OptimConfig
from spacescale.model.experts import StackedExperts
from spacescale.parallel.engine import build_engine


@pytest.fixture
def optimiser_of(monkeypatch):
    def initialize(model, optimizer, config):
        return SimpleNamespace(optimizer=optimizer), None

    monkeypatch.setattr(deepspeed, "initialize", initialize)
    config = {"zero_optimization": {"stage": 2}}
    return lambda model, optim: build_engine(model, optim, config).optimizer


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))


@pytest.mark.parametrize(
    "optim, lr, betas, decay",
    [
        (OptimConfig(), 5e-4, (0.9, 0.999), 0.01),  # the published run's
        (OptimConfig(lr=0.02, beta1=0.8, beta2=0.95, weight_decay=0.3), 0.02, (0.8, 0.95), 0.3),
    ],
)
def test_steps_are_those_of_adamw_as_asked_for(optimiser_of, optim, lr, betas, decay):
    ours, plain = small_model().double(), small_model().double()
    weights = [p for p in plain.parameters() if p.ndim == 2]
    others = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8)
    optimiser = optimiser_of(ours, optim)
    for step in range(20):
        x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for model, each in ((ours, optimiser), (plain, reference)):
            each.zero_grad()
            (step % 3 * model(x)).square().sum().backward()  # of changing size: both betas count
            each.step()
    for found, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_weights_alone_decay(optimiser_of):
    model = nn.Module()
    model.species_token, model.norm = nn.Embedding(2, 4), nn.LayerNorm(4)
    model.experts = StackedExperts(2, 4, 8, dropout=0.0, out_dropout=True)
    model.type_embedding = nn.Parameter(torch.zeros(3, 4))
    model.head = nn.Linear(4, 2)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimiser_of(model, OptimConfig()).param_groups
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert {name_of[id(p)] for p in decayed} == {"experts.w1", "experts.w2", "head.weight"}
    assert sum(len(group["params"]) for group in groups) == len(name_of)
