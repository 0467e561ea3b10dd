"""Targets that were not measured, in unequal numbers on two ranks: the same as in one process."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from spacescale.config import LossConfig
from spacescale.model.losses import training_losses
from spacescale.model.space import SpaceOutput
from spacescale.parallel import comm
from spacescale.testing.ranks import run_ranks

TRACKS = {"ant": 3, "bee": 2, "fly": 2}
WINDOWS, BINS = 4, 5


def windows(name: str) -> tuple[Tensor, Tensor]:
    """Features and targets (windows, bins, tracks) of all ranks; the odd windows are rank 1's."""
    generator = torch.Generator().manual_seed(len(name) + TRACKS[name])
    shape = (WINDOWS, BINS, TRACKS[name])
    features, targets = torch.rand((2, *shape), generator=generator)
    if name == "ant":  # rank 0 measured little, rank 1 much
        targets[0::2, 1:] = torch.nan
        targets[1, 0, 0] = torch.nan
    if name == "bee":  # rank 1 measured nothing
        targets[1::2] = torch.nan
    return features, targets  # fly: everything was measured


def gradients(rank: int, world: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Loss terms and gradients of one micro-step, as data parallelism averages them."""
    weights = {name: torch.ones(BINS, count) for name, count in TRACKS.items()}
    prediction, targets = {}, {}
    for name, weight in weights.items():
        features, target = (part[rank::world] for part in windows(name))
        prediction[name] = softplus(features * weight.requires_grad_())
        targets[name] = target
    output = SpaceOutput(prediction, {}, {}, [], None)
    terms = training_losses(output, targets, LossConfig(), comm.sum_over_ranks, {"ant", "bee"})
    torch.stack(list(terms.values())).sum().backward()
    losses = {n: float(comm.add_over_ranks(t.detach())) / world for n, t in terms.items()}
    return losses, {n: comm.add_over_ranks(w.grad) / world for n, w in weights.items()}


def on_this_rank() -> tuple[dict[str, float], dict[str, Tensor]]:
    return gradients(comm.rank(), comm.world_size())


def test_two_ranks_equal_one_process():
    losses, expected = gradients(0, 1)
    for found_losses, found in run_ranks(on_this_rank, 2):
        assert found_losses == pytest.approx(losses, rel=1e-6)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient)
            assert gradient.isfinite().all() and gradient.any()
