import math

import pytest
import torch
from torch import nn

from spacescale.model.layers import ConvBlock
from spacescale.train.statistics_watch import StatisticsWatch


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(ConvBlock(4, 6, 3), ConvBlock(6, 2, 1))


def test_an_overflow_is_seen_and_taken_back(model):
    model(torch.randn(2, 4, 16))
    watch = StatisticsWatch(model)
    model(torch.randn(2, 4, 16))
    watch.keep()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert watch.largest().isfinite()
    output = model(1e25 * torch.randn(2, 4, 16))
    assert output.isfinite().all(), "the case that no loss betrays"
    assert not watch.largest().isfinite()
    watch.restore()
    assert watch.largest().isfinite()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_anywhere_is_seen(model, bad):
    watch = StatisticsWatch(model)
    mean = model[1][0].running_mean
    assert mean is not None
    mean[5] = bad
    assert not watch.largest().isfinite()
