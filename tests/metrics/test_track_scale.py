import math

import numpy as np
import pytest
import torch

from spacescale.metrics.track_scale import TrackScale, nonzero_means

MEANS = torch.tensor([0.5, 2.0])
STORED = torch.tensor([[[1.0, 4.0], [0.0, -2.0], [torch.nan, 6.0]]])


def test_tracks_without_signal_are_divided_by_one():
    means = nonzero_means(np.array([2.0, 0.0, 0.25, np.nan]))
    assert means.tolist() == [2.0, 1.0, 0.25, 1.0]
    assert means.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [[1, 4], [0, -2], [math.nan, 6]]),
        ("mean", [[2, 2], [0, -1], [math.nan, 3]]),
        ("log1p", [[math.log(3), math.log(3)], [0, 0], [math.nan, math.log(4)]]),
    ],
)
def test_targets_are_scaled_as_named(name, expected):
    found = TrackScale(name, MEANS).targets(STORED.half())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["none", "mean", "log1p"])
def test_a_perfect_prediction_comes_back_in_track_means(name):
    scale = TrackScale(name, MEANS)
    stored = torch.rand(2, 5, 2) * 9
    torch.testing.assert_close(scale.predicted_in_means(scale.targets(stored)), stored / MEANS)
