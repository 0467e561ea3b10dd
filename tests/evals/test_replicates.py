"""Replicates are found in the targets table, and predict each other."""

import dataclasses

import numpy as np
import torch
from small_datasets import small_targets, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.evals.replicates import Replicates, groups


def test_each_track_is_predicted_by_the_mean_of_the_others(tmp_path):
    targets = np.concatenate([small_targets(0), small_targets(1)[..., :1]], axis=-1)
    targets[4, 3, 1] = np.nan
    data = SpeciesData.open(write_small_dataset(tmp_path / "finch", targets, missing="nan"))
    words = ["liver", "liver", "", "liver"]
    data.tracks = [
        dataclasses.replace(track, extra={"replicate": word})
        for track, word in zip(data.tracks, words, strict=True)
    ]
    assert groups(data.tracks) == {0: [1, 3], 1: [0, 3], 3: [0, 1]}
    means = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = Replicates(data, means).predict([4, 5])
    scaled = torch.from_numpy(targets[4:6].astype(np.float32)) / means
    expected = (scaled[..., 1] + scaled[..., 3]) / 2
    expected[0, 3] = scaled[0, 3, 3]
    torch.testing.assert_close(found[..., 0], expected)
    torch.testing.assert_close(found[..., 1], (scaled[..., 0] + scaled[..., 3]) / 2)
    assert found[..., 2].isnan().all()


def test_a_word_that_stands_once_names_no_replicate(tmp_path):
    data = SpeciesData.open(write_small_dataset(tmp_path / "finch"))
    assert groups(data.tracks) == {}
