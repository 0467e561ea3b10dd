import numpy as np
import pytest
import torch

from spacescale.config import LossConfig
from spacescale.dataset.reader import SpeciesData
from spacescale.train import objective
from spacescale.train.objective import Objective
from tests.helpers.small_datasets import small_targets, small_windows, write_small_dataset

TRAIN = [window.split == "train" for window in small_windows()]


@pytest.fixture
def data(tmp_path):
    """Three tracks: a smooth one, one that is seldom above 0, one that is 0 in training."""
    targets = small_targets()
    targets[..., 1] *= np.random.default_rng(2).random(targets.shape[:2]) < 0.05
    targets[TRAIN, :, 2] = 0
    return SpeciesData.open(write_small_dataset(tmp_path / "finch", targets, missing="nan"))


def dispersions(data: SpeciesData) -> np.ndarray:
    """Of log1p of multiples of the track mean, over all training windows, the long way."""
    stored = np.stack([data.targets(int(row)) for row in data.rows("train")]).astype(float)
    mean = np.where(data.track_mean > 0, data.track_mean, 1.0)
    z = np.log1p(np.maximum(stored / mean, 0))
    return np.nanvar(z, axis=(0, 1)) / np.nanmean(z, axis=(0, 1))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_spiky_tracks_weigh_less_by_their_dispersion(data, balance):
    loss = LossConfig(track_scale="log1p", track_balance=balance)
    found = Objective.of(data, loss, "cpu").track_weights
    with np.errstate(invalid="ignore"):
        expected = (dispersions(data) + 0.2) ** -balance
    expected[2] = 1.0  # nothing in it varies
    np.testing.assert_allclose(found.numpy(), expected / expected.mean(), rtol=1e-4)
    assert found[0] > found[1]


def test_what_was_not_measured_does_not_count(tmp_path):
    targets = small_targets()
    whole = SpeciesData.open(write_small_dataset(tmp_path / "whole", targets))
    hidden = targets.copy()
    hidden[np.flatnonzero(TRAIN)[::2], :, 1] = np.nan
    holes = SpeciesData.open(write_small_dataset(tmp_path / "holes", hidden, missing="nan"))
    loss = LossConfig(track_scale="none", track_balance=1.0)
    found = Objective.of(holes, loss, "cpu").track_weights
    seen = hidden[TRAIN][..., 1].astype(float)
    dispersion = np.nanvar(seen) / np.nanmean(seen) + 0.2
    other = Objective.of(whole, loss, "cpu").track_weights
    assert float(found[1] / found[0]) != pytest.approx(float(other[1] / other[0]), rel=1e-3)
    first = targets[TRAIN][..., 0].astype(float)
    expected = (first.var() / first.mean() + 0.2) / dispersion
    assert float(found[1] / found[0]) == pytest.approx(expected, rel=1e-4)


def test_equal_weights_read_nothing(data, monkeypatch):
    monkeypatch.setattr(objective, "track_weights", None)
    assert Objective.of(data, LossConfig(), "cpu").track_weights == 1.0


def test_windows_are_read_evenly_over_the_set(data, monkeypatch):
    read = []
    monkeypatch.setattr(objective, "WINDOWS_READ", 4)
    monkeypatch.setattr(
        SpeciesData, "targets", lambda self, row: read.append(row) or np.ones((8, 3), np.float16)
    )
    weights = Objective.of(data, LossConfig(track_balance=1.0), "cpu").track_weights
    assert torch.equal(weights, torch.ones(3))
    rows = data.rows("train")
    assert len(read) == 4 and read[0] == rows[0] and read[-1] == rows[-1]
