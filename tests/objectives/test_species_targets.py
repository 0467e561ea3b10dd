import numpy as np
import pytest
import torch
from small_datasets import small_targets, small_windows, write_small_dataset

from spacescale.config import LossConfig
from spacescale.dataset.reader import SpeciesData
from spacescale.objectives import species_targets

TRAIN = [window.split == "train" for window in small_windows()]


@pytest.fixture
def data(tmp_path):
    """Three tracks: a smooth one, one that is seldom above 0, one that is 0 in training."""
    targets = small_targets()
    targets[..., 1] *= np.random.default_rng(2).random(targets.shape[:2]) < 0.05
    targets[TRAIN, :, 2] = 0
    return SpeciesData.open(write_small_dataset(tmp_path / "finch", targets, missing="nan"))


def weights_of(data: SpeciesData, loss: LossConfig):
    return species_targets.targets_of({"finch": data}, loss, "cpu")["finch"].track_weights


def dispersions(data: SpeciesData) -> np.ndarray:
    """Of log1p of multiples of the track mean, over all training windows, the long way."""
    stored = np.stack([data.targets(int(row)) for row in data.rows("train")]).astype(float)
    mean = np.where(data.track_mean > 0, data.track_mean, 1.0)
    z = np.log1p(np.maximum(stored / mean, 0))
    with np.errstate(invalid="ignore"):
        return np.nanvar(z, axis=(0, 1)) / np.nanmean(z, axis=(0, 1))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_spiky_tracks_weigh_less_by_their_dispersion(data, balance):
    loss = LossConfig(track_scale="log1p", track_balance=balance)
    found = weights_of(data, loss)
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
    found = weights_of(holes, loss)
    seen = hidden[TRAIN][..., 1].astype(float)
    dispersion = np.nanvar(seen) / np.nanmean(seen) + 0.2
    other = weights_of(whole, loss)
    assert float(found[1] / found[0]) != pytest.approx(float(other[1] / other[0]), rel=1e-3)
    first = targets[TRAIN][..., 0].astype(float)
    expected = (first.var() / first.mean() + 0.2) / dispersion
    assert float(found[1] / found[0]) == pytest.approx(expected, rel=1e-4)


def test_equal_weights_read_nothing(data, monkeypatch):
    monkeypatch.setattr(species_targets, "unscaled_weights", None)
    assert weights_of(data, LossConfig()) == 1.0


def test_windows_are_read_evenly_over_the_set(data, monkeypatch):
    read = []
    monkeypatch.setattr(species_targets, "WINDOWS_READ", 4)
    monkeypatch.setattr(
        SpeciesData, "targets", lambda self, row: read.append(row) or np.ones((8, 3), np.float16)
    )
    weights = weights_of(data, LossConfig(track_balance=1.0))
    assert torch.equal(weights, torch.ones(3))
    rows = data.rows("train")
    assert len(read) == 4 and read[0] == rows[0] and read[-1] == rows[-1]


def test_a_smooth_species_weighs_more_than_a_spiky_one(data, tmp_path):
    smooth = SpeciesData.open(write_small_dataset(tmp_path / "perch"))
    loss = LossConfig(track_scale="log1p", track_balance=1.0)
    found = species_targets.targets_of({"finch": data, "perch": smooth}, loss, "cpu")
    means = {name: float(one.track_weights.mean()) for name, one in found.items()}
    assert sum(means.values()) / 2 == pytest.approx(1)
    expected = [
        np.where(np.isnan(d), 1.0, 1 / (d + 0.2)).mean() for d in map(dispersions, (data, smooth))
    ]
    assert means["perch"] / means["finch"] == pytest.approx(expected[1] / expected[0], rel=1e-4)
    alone = weights_of(data, loss)
    torch.testing.assert_close(found["finch"].track_weights / means["finch"], alone)
