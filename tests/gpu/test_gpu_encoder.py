"""The token encoder on a card, whose kernel wants its bias aligned, against float64 on the CPU."""

import copy

import pytest
import torch
from gpu_models import DEVICE, apart, bf16
from torch.nn.functional import cross_entropy

from spacescale.encoder_config import EncoderConfig
from spacescale.model.encoder import Encoder


def gradients(model, ids, attended, selected):
    loss = cross_entropy(model(ids, attended, selected).double(), ids[selected])
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("length", [64, 509])  # with and without alignment to spare
def test_loss_and_gradients_are_those_of_the_cpu(length):
    torch.manual_seed(0)
    exact = Encoder(EncoderConfig(vocab_size=300, dim=128, depth=2, heads=2, dropout=0.0)).double()
    ids = torch.randint(0, 300, (3, length))
    attended = torch.arange(length) < torch.tensor([[length], [length // 2], [9]])
    selected = attended & (torch.rand(3, length) < 0.3)
    expected = gradients(exact, ids, attended, selected)
    model = copy.deepcopy(exact).float().to(DEVICE)
    there = [tensor.to(DEVICE) for tensor in (ids, attended, selected)]
    for got, reference in zip(gradients(model, *there), expected, strict=True):
        assert apart(got.cpu(), reference) < 1e-4
    with bf16():
        narrow = gradients(model, *there)[0]
    assert narrow.item() == pytest.approx(expected[0].item(), rel=0.01)
