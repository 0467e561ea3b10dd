"""How sequences are fed, and which features come of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import BIN, WINDOW, genome, trained
from small_tasks import examples

from spacescale.errors import UserError
from spacescale.genome.dna import N, reverse_complement
from spacescale.genome.open_genome import OpenGenome
from spacescale.model.space import Space
from spacescale.probing.features import OneHot, Trunk, dinucleotides, write_features
from spacescale.probing.feeding import Feeder
from spacescale.tasks.task import Examples, Locus


@pytest.fixture(scope="module")
def space() -> Space:
    return trained().model.eval()


GENOME = OpenGenome(Path("genome.fa"), genome().contigs)
LOCI = (Locus("chr1", 500, 561), Locus("chr1", 500, 561, True), Locus("chr2", 1, 40),
        Locus("chr2", 1, 40, True), Locus("chrX", 290, 333),
        Locus("chrX", 5, 66, True))  # fmt: skip


def trunk_of(space, feed="alone", layer="pointwise", train=None, draws=2, window=WINDOW):
    feeder = Feeder.of(feed, window, BIN, train, draws, GENOME)
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


def placed(loci) -> Examples:
    """The sequences of these places."""
    plus = [GENOME.contigs[one.contig][one.start : one.end] for one in loci]
    codes = [reverse_complement(c) if one.minus else c for c, one in zip(plus, loci, strict=True)]
    return Examples(codes, np.zeros(len(loci), np.int64), list(map(str, loci)), loci=loci)


def test_a_genome_stands_around_a_sequence_on_its_strand(space):
    found = placed(LOCI)
    feeder = trunk_of(space, "genome").of_split(found).feeder
    for row, (codes, locus) in enumerate(zip(found.codes, LOCI, strict=True)):
        (shown,) = feeder.fed(codes[None], np.array([row]))
        first, contig = feeder.first(len(codes)), GENOME.contigs[locus.contig]
        np.testing.assert_array_equal(shown[first : first + len(codes)], codes)
        around = np.pad(contig, WINDOW, constant_values=N)  # as if the contig went on
        if locus.minus:
            around, start = reverse_complement(around), WINDOW + len(contig) - locus.end
        else:
            start = WINDOW + locus.start
        np.testing.assert_array_equal(shown, around[start - first :][:WINDOW])


@pytest.mark.parametrize("layer, width", [("pointwise", BIN), ("stem", 2)])
def test_features_in_a_genome_are_those_of_the_sequences_own_bins(space, tmp_path, layer, width):
    found = placed(LOCI)
    trunk = trunk_of(space, "genome", layer)
    kept, means = write_features(trunk, found, None, tmp_path / "f.npy")
    feeder = trunk.of_split(found).feeder
    for row, codes in enumerate(found.codes):
        held, filled = -(-len(codes) // width), -(-len(codes) // BIN) * BIN
        (shown,) = feeder.fed(np.zeros((1, filled), np.uint8), np.array([row]))
        first = feeder.first(filled) // width
        wanted = embedded(space, shown, layer)[first : first + held]
        np.testing.assert_allclose(kept.values[row, :held], wanted, rtol=2e-3, atol=1e-4)
        assert not kept.values[row, held:].any()
        np.testing.assert_allclose(means.values[row], wanted.mean(0), rtol=1e-4, atol=1e-6)


def test_rows_are_those_of_the_split(space, tmp_path):
    """The same trunk reads all splits."""
    trunk = trunk_of(space, "genome")
    of_each = [
        write_features(trunk, placed(loci), None, tmp_path / f"{i}.npy")[1].values
        for i, loci in enumerate((LOCI[:3], LOCI[3:]))
    ]
    together = write_features(trunk, placed(LOCI), None, tmp_path / "all.npy")[1].values
    np.testing.assert_allclose(np.concatenate(of_each), together, rtol=1e-4, atol=1e-6)
    moved = replace(placed(LOCI[:3]), loci=(LOCI[1], *LOCI[1:3]))
    other = write_features(trunk, moved, None, tmp_path / "moved.npy")[1].values
    assert not np.allclose(other[0], together[0], rtol=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="--feed flanked: sequences of 121 bp do not fit"):
        Feeder("flanked", WINDOW, BIN).require(121)
    Feeder("flanked", WINDOW, BIN).require(120)
    Feeder("alone", WINDOW, BIN).require(10_000)


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
