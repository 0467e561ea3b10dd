"""How sequences are fed, and which features come of it."""

import numpy as np
import pytest
import torch
from small_models import BIN, WINDOW, trained
from small_tasks import examples

from spacescale.errors import UserError
from spacescale.genome.dna import N
from spacescale.model.space import Space
from spacescale.probing.features import OneHot, Trunk, dinucleotides, write_features
from spacescale.probing.feeding import Feeder
from spacescale.tasks.task import Examples


@pytest.fixture(scope="module")
def space() -> Space:
    return trained().model.eval()


def trunk_of(space, feed="alone", layer="pointwise", train=None, draws=2, window=WINDOW):
    feeder = Feeder.of(feed, window, BIN, train, draws)
    return Trunk(space, "finch", layer, feeder, torch.device("cpu"))


def embedded(space, codes, layer="pointwise"):
    with torch.no_grad():
        return space.embed(torch.from_numpy(codes)[None], "finch", layer)[0].numpy()


def test_n_stands_on_either_side_and_bins_begin_with_the_sequence():
    codes = np.zeros((2, 21), dtype=np.uint8)
    shown = Feeder("flanked", WINDOW, BIN).fed(codes, np.arange(2))
    assert shown.shape == (2, WINDOW)
    first = Feeder("flanked", WINDOW, BIN).first(21)
    assert first % BIN == 0 and abs(first - (WINDOW - 21) / 2) < BIN
    assert (shown[:, first : first + 21] == 0).all() and (shown == N).sum() == 2 * (WINDOW - 21)


def test_shuffled_flanks_depend_on_the_row_and_the_draw_alone():
    train, _ = examples(32, seed=0)
    feeder = Feeder.of("shuffled", WINDOW, BIN, train, 2)
    codes = np.full((2, 24), N, dtype=np.uint8)
    first = feeder.fed(codes, np.array([3, 5]))
    np.testing.assert_array_equal(first[1], feeder.fed(codes[:1], np.array([5]))[0])
    assert (first[0] != first[1]).mean() > 0.4
    assert (first[0] != feeder.fed(codes, np.array([3, 5]), draw=1)[0]).mean() > 0.4
    assert (first == N).sum() == 2 * 24  # flanks hold bases, and the sequence stays as it is


def test_background_has_the_dinucleotides_of_training_sequences():
    codes = [np.tile(np.array([0, 1], np.uint8), 40)] * 8
    train = Examples(codes, np.zeros(8, np.int64), [str(i) for i in range(8)])
    background = Feeder.of("shuffled", WINDOW, BIN, train, 1).background
    assert len(background) >= 2 * WINDOW and set(background.tolist()) == {0, 1}
    assert (background[:-1] != background[1:]).mean() > 0.9


@pytest.mark.parametrize("layer", ["pointwise", "stem"])
def test_features_alone_are_those_of_the_model(space, tmp_path, layer):
    found, _ = examples(5, seed=1)
    kept, means = write_features(
        trunk_of(space, layer=layer), found, int(found.lengths[0]), tmp_path / "f.npy"
    )
    for row, codes in enumerate(found.codes):
        wanted = embedded(space, codes, layer)
        np.testing.assert_allclose(kept.values[row], wanted, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(means.values[row], wanted.mean(0), rtol=1e-4, atol=1e-6)
    assert kept.batch(np.array([3, 1])).shape == (2, *kept.shape)
    np.testing.assert_array_equal(kept.batch(np.array([3]))[0].T, kept.values[3].astype("f4"))


def test_flanked_features_are_those_of_the_bins_that_hold_the_sequence(space, tmp_path):
    found, _ = examples(3, seed=1, low=61, high=61)
    trunk = trunk_of(space, "flanked")
    kept, means = write_features(trunk, found, int(found.lengths[0]), tmp_path / "f.npy")
    shown = trunk.feeder.fed(np.stack(found.codes), np.arange(3))
    first = trunk.feeder.first(61) // BIN
    for row in range(3):
        wanted = embedded(space, shown[row])[first : first + 8]
        np.testing.assert_allclose(kept.values[row], wanted, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(means.values[row], wanted.mean(0), rtol=1e-4, atol=1e-6)


def test_shuffled_features_are_means_of_the_draws(space, tmp_path):
    found, _ = examples(4, seed=1)
    trunk = trunk_of(space, "shuffled", train=found)
    kept, _ = write_features(trunk, found, int(found.lengths[0]), tmp_path / "f.npy")
    first, codes = trunk.feeder.first(64) // BIN, found.codes[2][None]
    draws = [embedded(space, trunk.feeder.fed(codes, np.array([2]), draw)[0])[first : first + 8]
             for draw in range(2)]  # fmt: skip
    np.testing.assert_allclose(kept.values[2], np.mean(draws, 0), rtol=2e-3, atol=1e-4)
    assert not np.allclose(draws[0], draws[1])


@pytest.mark.parametrize("layer, width", [("pointwise", BIN), ("stem", 2)])
def test_positions_without_bases_are_zero_and_do_not_count(space, tmp_path, layer, width):
    found, _ = examples(6, seed=1, low=17, high=50)
    trunk = trunk_of(space, layer=layer)
    kept, means = write_features(trunk, found, None, tmp_path / "f.npy")
    assert kept.shape[1] == -(-found.lengths.max() // width)
    for row, length in enumerate(found.lengths):
        held = -(-length // width)
        assert not kept.values[row, held:].any() and kept.values[row, :held].any(1).all()
        wanted = kept.values[row, :held].astype(np.float32).mean(0)
        np.testing.assert_allclose(means.values[row], wanted, rtol=5e-3, atol=1e-3)


def test_what_does_not_fit_is_refused(space, tmp_path):
    found, _ = examples(2, seed=1, low=WINDOW, high=WINDOW)
    with pytest.raises(UserError, match="--feed flanked: sequences of 128 bp do not fit"):
        write_features(trunk_of(space, "flanked"), found, int(found.lengths[0]), tmp_path / "f.npy")


def test_features_beyond_float16_are_refused(space, tmp_path, monkeypatch):
    found, _ = examples(2, seed=1)
    embed = space.embed
    monkeypatch.setattr(space, "embed", lambda *args: embed(*args) + 1e5)
    with pytest.raises(UserError, match="not finite in float16"):
        write_features(trunk_of(space), found, int(found.lengths[0]), tmp_path / "f.npy")


def test_bases_and_dinucleotides():
    codes = [np.array([0, 1, 1, 4, 3], np.uint8), np.array([2, 2], np.uint8)]
    found = Examples(codes, np.zeros(2, np.int64), ["a", "b"])
    bases = OneHot(found, 5).batch(np.array([1, 0]))
    assert bases.shape == (2, 4, 5) and bases.sum() == 2 + 4
    assert bases[1].argmax(0).tolist()[:3] == [0, 1, 1] and bases[1, 3, 4] == 1
    pairs = dinucleotides(found).values
    assert pairs[0, 1] == pairs[0, 5] == 0.5 and pairs[1, 10] == 1
