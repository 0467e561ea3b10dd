"""The ridge regressions that stand beside every model find what bases can tell, and no more."""

import numpy as np
import pytest
import torch
from small_datasets import BIN_SIZE, BINS, small_genome, small_windows, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.evals import linear_baselines
from spacescale.evals.baseline_input import Strands, bases_around
from spacescale.evals.linear_baselines import GC, KMERS, fit_ridge, flank_bins, kmers
from spacescale.genome import dna

FLANK = 8  # bins of 16 bp in 128 bp


def counts_by_hand(codes, bin_size, flank, word):
    """How often a word begins in each bin, left and right of it."""
    begins = np.array([codes[i : i + len(word)].tolist() == word for i in range(len(codes))])
    per_bin = begins.reshape(-1, bin_size).sum(1)
    bins = range(flank, len(per_bin) - flank)
    return np.array(
        [
            (per_bin[b], per_bin[b - flank : b].sum(), per_bin[b + 1 : b + 1 + flank].sum())
            for b in bins
        ]
    )


@pytest.mark.parametrize("word", [[3, 2, 3, 3], [3, 3, 3, 3]])
def test_words_are_counted_in_the_bin_and_on_both_sides(word):
    codes = np.random.default_rng(0).choice(5, size=16 * 24, p=[0.15, 0.15, 0.15, 0.5, 0.05])
    codes = codes.astype(np.uint8)
    assert flank_bins(16) == FLANK
    found = KMERS.of_window(codes, 16)
    assert found.shape == (8, 3 * 256)
    number = sum(base * 4**place for place, base in enumerate(reversed(word)))
    expected = counts_by_hand(codes, 16, FLANK, word)
    np.testing.assert_array_equal(found[:, [number, 256 + number, 512 + number]], expected)
    assert expected.sum() > 0
    assert GC.of_window(codes, 16)[0, 0] == np.isin(codes[128:144], (1, 2)).sum()


def planted(tmp_path, gap=None, genome=None):
    """A data set whose first track counts G and C in the bin, whose second counts them to the left,
    and whose third is noise."""
    genome = small_genome() if genome is None else genome
    at = dict(zip(("chrI", "chrII", "chrIII"), genome, strict=True))
    random = np.random.default_rng(3)
    targets = []
    for window in small_windows():
        codes = at[window.chrom]
        gc = np.pad(np.isin(codes, (dna.G, dna.C)), 200).astype(float)
        starts = 200 + window.start + BIN_SIZE * np.arange(BINS)
        own = [gc[s : s + BIN_SIZE].sum() for s in starts]
        left = [gc[s - 128 : s].sum() for s in starts]
        targets.append(np.stack([own, left, random.gamma(1, 2, BINS)], axis=1))
    targets = np.array(targets).astype(np.float16)
    if gap is not None:
        targets[gap] = np.nan
    return SpeciesData.open(
        write_small_dataset(tmp_path / "finch", targets, genome=genome, missing="nan")
    )


def one_strand(data):
    return Strands(data.strand_pair, data.track_mean)


def correlations(data, baseline, means, split="test"):
    rows = data.rows(split).tolist()
    predicted = baseline.predict(rows).log1p().flatten(0, 1)
    target = torch.log1p(torch.stack([torch.from_numpy(data.targets(r)) for r in rows]) / means)
    target = target.flatten(0, 1)
    pairs = zip(predicted.T, target.T, strict=True)
    return [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]


def test_gc_is_found_where_it_stands_and_noise_is_not(tmp_path):
    data = planted(tmp_path)
    means = torch.from_numpy(data.track_mean)
    own, left, noise = correlations(data, fit_ridge(data, GC, one_strand(data)), means)
    assert own > 0.97
    assert left > 0.97
    assert abs(noise) < 0.4


def test_bins_that_were_not_measured_pull_nothing(tmp_path):
    whole, gap = planted(tmp_path / "whole"), (slice(0, 8), slice(None), 0)
    part = planted(tmp_path / "part", gap)
    means = whole.track_mean
    a, b = (fit_ridge(data, GC, one_strand(whole)) for data in (whole, part))
    np.testing.assert_array_equal(a.coefficients[:, 1:], b.coefficients[:, 1:])
    assert np.corrcoef(a.coefficients[:, 0], b.coefficients[:, 0])[0, 1] > 0.95
    assert correlations(whole, b, torch.from_numpy(means))[0] > 0.95


def test_each_track_gets_the_penalty_that_is_best_on_validation_windows(tmp_path, monkeypatch):
    data = planted(tmp_path)
    means = torch.from_numpy(data.track_mean)

    def found():
        return correlations(data, fit_ridge(data, kmers(2), one_strand(data)), means, "valid")

    chosen, penalties = found(), linear_baselines.PENALTIES
    alone = []
    for penalty in penalties[::2]:
        monkeypatch.setattr(linear_baselines, "PENALTIES", np.array([penalty]))
        alone.append(found())
    assert (np.array(chosen) >= np.max(alone, axis=0) - 2e-3).all()
    assert (np.array(chosen)[:2] > np.min(alone, axis=0)[:2] + 0.02).all()


def test_large_data_sets_are_read_in_part(tmp_path, monkeypatch):
    data, read = planted(tmp_path), []
    monkeypatch.setattr(linear_baselines, "MOST_BINS", {"train": 5 * BINS, "valid": 2 * BINS})
    monkeypatch.setattr(
        linear_baselines,
        "bases_around",
        lambda data, row, flank: read.append(row) or bases_around(data, row, flank),
    )
    fit_ridge(data, GC, one_strand(data))
    train, valid = data.rows("train"), data.rows("valid")
    assert read == [*train[[0, 5, 11, 16, 22]], *valid[[0, len(valid) - 1]]]
