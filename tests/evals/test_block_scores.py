"""Intervals are of whole blocks, and differences of pairs."""

import numpy as np
import torch
from small_datasets import BINS, TRACKS, small_windows, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.evals import intervals
from spacescale.evals.intervals import Blocks, BlockScores, Interval, blocks_of
from spacescale.objectives.track_prediction import TrackScores

PEAK = torch.full((TRACKS,), 2.0)


def scores(windows, predict, blocks):
    found = BlockScores(blocks, PEAK, ["cage"] * TRACKS)
    for row, target in enumerate(windows):
        found.update([row], predict(target)[None], target[None])
    return found


def drawn_windows(number, seed=0):
    """Targets (windows, BINS, TRACKS), and a noisy prediction of them."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.rand(number, BINS, TRACKS, generator=random) * 4
    noise = torch.rand(number, BINS, TRACKS, generator=random) * 4
    return targets, noise


def test_windows_are_put_together_by_place(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "BLOCK_BP", (1000, 500))
    data = SpeciesData.open(write_small_dataset(tmp_path / "finch"))
    rows = data.rows("train")
    monkeypatch.setattr(intervals, "FEWEST_BLOCKS", 3)
    assert blocks_of(data, rows).size_bp == 1000
    monkeypatch.setattr(intervals, "FEWEST_BLOCKS", 4)
    blocks = blocks_of(data, rows)
    assert (blocks.size_bp, blocks.count) == (500, 6)
    starts = [window.start // 500 for window in small_windows() if window.split == "train"]
    assert [blocks.of_row[row] for row in rows.tolist()] == starts


def test_blocks_add_up_to_the_score_of_all_windows():
    targets, noise = drawn_windows(12)
    blocks = Blocks({row: row // 3 for row in range(12)}, 4, 1000)
    found = BlockScores(blocks, PEAK, ["cage"] * TRACKS)
    parts = [BlockScores(blocks, PEAK, ["cage"] * TRACKS) for _ in range(2)]
    whole = TrackScores(TRACKS)
    for row in range(12):
        pair = (targets[row] + noise[row])[None], targets[row][None]
        found.update([row], *pair)
        parts[row % 2].update([row], *pair)
        whole.update(*pair)
    for one in (found, parts[0] + parts[1]):
        torch.testing.assert_close(one.total().tensor(), whole.tensor())
        high = targets > 2
        x, y = ((targets + noise).log1p(), targets.log1p())
        expected = [np.corrcoef(x[..., t][high[..., t]], y[..., t][high[..., t]])[0, 1]
                    for t in range(TRACKS)]  # fmt: skip
        np.testing.assert_allclose(one.peaks.pearson().numpy(), expected, rtol=1e-5)
        across = [
            np.corrcoef(a, b)[0, 1]
            for a, b in zip(x.flatten(0, 1).numpy(), y.flatten(0, 1).numpy(), strict=True)
        ]
        np.testing.assert_allclose(one.across.pearson()["cage"], np.mean(across), rtol=1e-4)


def test_an_interval_is_as_wide_as_blocks_differ():
    """Copies of a window are no further evidence: in one block they are drawn together."""
    targets, noise = drawn_windows(30)
    copied = torch.cat([targets] * 4), torch.cat([noise] * 4)
    alone = Blocks({row: row for row in range(30)}, 30, 1000)
    together = Blocks({row: row % 30 for row in range(120)}, 30, 1000)
    apart = Blocks({row: row for row in range(120)}, 120, 1000)
    widths = []
    for (y, e), blocks in (((targets, noise), alone), (copied, together), (copied, apart)):
        found = BlockScores(blocks, PEAK, ["cage"] * TRACKS)
        found.update(range(len(y)), y + e, y)
        interval = Interval.of(found.draws()[:, 0])
        assert interval.low < float(found.total().log1p.pearson()[0]) < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] == widths[0]
    assert widths[2] < 0.7 * widths[0]


def test_draws_of_two_models_are_pairs():
    targets, noise = drawn_windows(30)
    blocks = Blocks({row: row for row in range(30)}, 30, 1000)
    found, better = (BlockScores(blocks, PEAK, ["cage"] * TRACKS) for _ in range(2))
    found.update(range(30), targets + noise, targets)
    better.update(range(30), targets + 0.95 * noise, targets)
    assert Interval.of((found.draws() - found.draws())[:, 0]) == Interval(0.0, 0.0)
    difference = Interval.of((better.draws() - found.draws())[:, 0])
    alone = Interval.of(found.draws()[:, 0])
    assert 0 < difference.low < difference.high < (alone.high - alone.low) / 2


def test_what_was_never_measured_has_no_interval():
    blocks = Blocks({0: 0}, 1, 1000)
    found = BlockScores(blocks, PEAK, ["cage"] * TRACKS)
    nothing = torch.full((1, BINS, TRACKS), torch.nan)
    found.update([0], torch.ones(1, BINS, TRACKS), nothing)
    assert np.isnan(Interval.of(found.draws()[:, 0]).low)
    assert np.isnan(found.across.pearson()["cage"])
