"""What is not trained, by names and rows, without DeepSpeed's engine."""

import logging

import pytest
import torch
from torch import nn

from spacescale.config import Config, OptimConfig
from spacescale.errors import UserError
from spacescale.model.layers import BatchNorm
from spacescale.model.space import Space
from spacescale.objectives import objective_of
from spacescale.parallel.engine import parameter_groups, set_learning_rate
from spacescale.parallel.freezing import freeze, matches
from spacescale.space_config import ModelConfig
from spacescale.train.trainable import (
    announce_trainable,
    frozen_rows,
    require_something_to_train,
)

CPU = torch.device("cpu")
MODEL = ModelConfig(
    species={"ant": ("DNASE", "CAGE"), "bee": ("CHIP",)},
    seq_length=128, target_length=2, num_downsamples=5, dim=24, dim_divisible_by=8, depth=1,
    heads=2, attn_dim_key=8, tracks_num_experts=4,
)  # fmt: skip


@pytest.mark.parametrize(
    "name, pattern, expected",
    [
        ("stem.0.weight", "stem", True),
        ("stem.0.weight", "stem.0.weight", True),
        ("stem.0.weight", "*.weight", True),
        ("stem.0.weight", "st", False),
        ("transformer.10.norm.bias", "transformer.1", False),
        ("transformer.1.moe.router.bias", "*.router", True),
    ],
)
def test_patterns_are_of_names_or_modules(name, pattern, expected):
    assert matches(name, pattern) == expected


def with_settings(**optim):
    return objective_of(Config(model=MODEL, optim=OptimConfig(**optim)))


def test_patterns_that_do_nothing_or_leave_nothing_are_refused():
    require_something_to_train(with_settings(freeze=("stem",), lr_factors={"heads": 3}), None)
    with pytest.raises(UserError, match=r"optim.freeze \(--freeze\): 'stemm' is no parameter's na"):
        require_something_to_train(with_settings(freeze=("stem", "stemm")), None)
    with pytest.raises(UserError, match=r"'stemm'.* \(did you mean 'stem'\?\); they begin with st"):
        require_something_to_train(with_settings(lr_factors={"stemm": 2.0}), None)
    with pytest.raises(UserError, match=r"optim.freeze=\['\*'\]: nothing is left to train"):
        require_something_to_train(with_settings(freeze=("*",)), None)


def test_a_batchnorm_is_frozen_with_both_its_weights_and_stays_in_evaluation_mode():
    model = Space(MODEL)
    optim = OptimConfig(freeze=("stem", "conv_tower.0.0.0.weight"))
    assert freeze(model, frozen_rows(model, optim, None), CPU) == set()
    model.eval()
    model.train()
    modes = {n: m.training for n, m in model.named_modules() if isinstance(m, BatchNorm)}
    assert modes == {name: not name.startswith("stem") for name in modes} and len(modes) > 3
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if not name.startswith("stem.") and name != "conv_tower.0.0.0.weight"
    }


def test_frozen_rows_are_left_to_the_last_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    rows = {"0.weight": torch.tensor([True, False, True]), "1.bias": torch.ones(1, dtype=bool)}
    in_part = freeze(model, rows, CPU)
    assert in_part == {"0.weight"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optim = OptimConfig(weight_decay=0.5)
    optimizer = torch.optim.AdamW(parameter_groups(model, optim, in_part), lr=0.1)
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert torch.equal(after["0.weight"][[0, 2]], before["0.weight"][[0, 2]])
    assert torch.equal(after["1.bias"], before["1.bias"]) and after["1.bias"].grad is None
    assert not torch.equal(after["0.weight"][1], before["0.weight"][1])


def test_the_first_pattern_gives_a_parameter_its_rate(caplog):
    model = Space(MODEL)
    factors = {"heads.bee": 0.5, "heads": 4.0, "*.router.weight": 2.0}
    groups = parameter_groups(model, OptimConfig(lr_factors=factors))
    engine = nn.Module()
    engine.optimizer = torch.optim.AdamW(groups, lr=1.0)  # pyright: ignore
    set_learning_rate(engine, 0.01)  # pyright: ignore
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = {"heads.bee": 0.5, "heads.ant": 4.0}.get(name.rpartition(".")[0], 1.0)
        expected = 2.0 if name.endswith("router.weight") else expected
        assert rates[id(parameter)] == pytest.approx(0.01 * expected), name
    with caplog.at_level(logging.INFO):
        announce_trainable(model, OptimConfig(lr_factors=factors, freeze=()), {})
    assert caplog.messages == [
        "learning rate × 0.5: 2 parameters by 'heads.bee'",
        "learning rate × 4: 2 parameters by 'heads'",
        "learning rate × 2: 1 parameters by '*.router.weight'",
    ]
