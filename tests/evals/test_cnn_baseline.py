"""The plain network that may stand beside a model: cut into pieces, put together, and learning."""

import numpy as np
import pytest
import torch
from small_datasets import BIN_SIZE, BINS, TRACKS, small_targets, small_windows, write_small_dataset

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals import cnn_baseline
from spacescale.evals.baseline_input import Strands
from spacescale.evals.cnn_baseline import CONTEXT_BINS, PlainCnn, fit_cnn, pieces_of


@pytest.fixture
def data(tmp_path):
    return SpeciesData.open(write_small_dataset(tmp_path / "finch"))


def one_strand(data):
    return Strands(data.strand_pair, data.track_mean)


def test_a_window_is_cut_into_pieces_without_gap_or_overlap(data, monkeypatch):
    monkeypatch.setattr(cnn_baseline, "BINS_AT_ONCE", 3)
    pieces = pieces_of(data, [4, 9])
    assert [(p.row, p.first, p.count) for p in pieces[:3]] == [(4, 0, 2), (4, 2, 3), (4, 5, 3)]
    assert [p.row for p in pieces[3:]] == [9, 9, 9]


def test_predictions_do_not_depend_on_how_windows_are_cut(data, monkeypatch):
    """Twice the context of what the network sees, so that no piece notices its edge."""
    torch.manual_seed(0)
    model = PlainCnn(BIN_SIZE, TRACKS).eval()
    baseline = cnn_baseline.CnnBaseline(data, one_strand(data), model, 1.0)
    whole = baseline.predict([3, 5])
    assert whole.shape == (2, BINS, TRACKS)
    assert (whole >= 0).all()
    monkeypatch.setattr(cnn_baseline, "BINS_AT_ONCE", 3)
    torch.testing.assert_close(baseline.predict([3, 5]), whole, rtol=1e-4, atol=1e-5)
    assert sum(2 * d for d in cnn_baseline.DILATIONS) // 2 < CONTEXT_BINS


def test_it_learns_and_keeps_what_is_best_on_validation(tmp_path, monkeypatch):
    """Targets of its own first predictions turned round: a rise that bases explain."""
    genome_gc = SpeciesData.open(write_small_dataset(tmp_path / "start"))
    targets = small_targets()
    for row in range(len(small_windows())):
        codes = genome_gc.sequence(row, BINS * BIN_SIZE)
        targets[row] = (np.isin(codes, (1, 2)).reshape(BINS, BIN_SIZE).sum(1)[:, None]) ** 2
    data = SpeciesData.open(write_small_dataset(tmp_path / "finch", targets))
    steps = iter(range(41))
    monkeypatch.setattr(cnn_baseline.time, "time", lambda: float(next(steps)))
    random_state = torch.get_rng_state()
    baseline = fit_cnn(data, one_strand(data), minutes=0.65)
    assert torch.equal(torch.get_rng_state(), random_state)
    rows = data.rows("test").tolist()
    found = baseline.predict(rows)[..., 0].flatten()
    target = torch.from_numpy(np.concatenate([data.targets(row)[:, 0] for row in rows]))
    assert float(torch.corrcoef(torch.stack([found, target.float()]))[0, 1]) > 0.6


def test_bins_of_another_width_are_refused(data):
    data.bin_size = 24
    with pytest.raises(UserError, match="bins of a power of two, not 24 bp"):
        fit_cnn(data, one_strand(data), minutes=1)
