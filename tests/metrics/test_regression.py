import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacescale.metrics.regression import PearsonMoments, summarise_by_assay


def correlated(mean: float, sd: float, shape=(40, 48, 3), seed=0) -> tuple[torch.Tensor, ...]:
    """Prediction and target with a true correlation of 0.8 at that mean and spread."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=(2, *shape))
    y = mean + sd * common
    x = mean + sd * (0.8 * common + 0.6 * own)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def moments_of(x: torch.Tensor, y: torch.Tensor) -> PearsonMoments:
    moments = PearsonMoments(x.shape[-1])
    moments.update(x, y)
    return moments


def two_pass(x: torch.Tensor, y: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    a, b = (part.double().flatten(0, -2).numpy() for part in (x, y))
    r = [np.corrcoef(a[:, t], b[:, t])[0, 1] for t in range(a.shape[1])]
    r2 = 1 - ((b - a) ** 2).sum(0) / ((b - b.mean(0)) ** 2).sum(0)
    return np.array(r), r2


@pytest.mark.parametrize(("mean", "sd"), [(0, 1), (5, 3), (1000, 1), (60000, 500), (0.01, 0.001)])
def test_agrees_with_a_two_pass_computation(mean, sd):
    x, y = correlated(mean, sd, shape=(400, 48, 3))
    moments = PearsonMoments(3)
    for part in zip(x.split(7), y.split(7), strict=True):
        moments.update(*part)
    r, r2 = two_pass(x, y)
    np.testing.assert_allclose(moments.pearson().numpy(), r, rtol=1e-9)
    np.testing.assert_allclose(moments.r2().numpy(), r2, rtol=1e-9)


def test_skewed_half_precision_targets():
    rng = np.random.default_rng(1)
    y = torch.tensor(rng.gamma(0.1, 50, size=(30, 48, 4)), dtype=torch.float16)
    x = torch.tensor(rng.gamma(0.1, 50, size=(30, 48, 4)), dtype=torch.float32) + y.float()
    np.testing.assert_allclose(moments_of(x, y).pearson().numpy(), two_pass(x, y)[0], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=5, unique=True), st.integers(0, 1000))
def test_chunks_do_not_matter_and_sums_add(cuts, seed):
    x, y = correlated(2.0, 1.0, seed=seed)
    whole = moments_of(x, y)
    streamed, added = PearsonMoments(3), PearsonMoments(3)
    for part in zip(
        torch.tensor_split(x, sorted(cuts)), torch.tensor_split(y, sorted(cuts)), strict=True
    ):
        streamed.update(*part)
        added = added + moments_of(*part)
    for other in (streamed, added, PearsonMoments.from_tensor(whole.tensor())):
        torch.testing.assert_close(other.pearson(), whole.pearson(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.r2(), whole.r2(), rtol=1e-12, atol=1e-12)


def test_windows_of_weight_zero_do_not_count_even_if_nan():
    x, y = correlated(1.0, 1.0)
    padded = torch.cat([x, torch.full_like(x[:2], torch.nan)]), torch.cat([y, y[:2] + 9])
    weight = torch.cat([torch.ones(len(x)), torch.zeros(2)])
    moments = PearsonMoments(3)
    moments.update(*padded, weight)
    assert torch.equal(moments.pearson(), moments_of(x, y).pearson())


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.3])
def test_constant_targets_are_nan_and_constant_predictions_know_nothing(constant):
    x, y = correlated(1.0, 1.0, shape=(500, 48, 3))
    x[..., 0] = constant
    y[..., 1] = constant
    moments = PearsonMoments(3)
    for part in zip(x.split(3), y.split(3), strict=True):
        moments.update(*part)
    found = moments.pearson()
    assert found.isnan().tolist() == [False, True, False] and found[0] == 0
    assert moments.r2().isnan().tolist() == [False, True, False]


def test_no_data_is_nan():
    assert PearsonMoments(2).pearson().isnan().all()
    assert PearsonMoments(2).r2().isnan().all()


def test_tensor_is_a_copy():
    moments = moments_of(*correlated(1.0, 1.0))
    before = moments.pearson()
    moments.tensor().zero_()
    assert torch.equal(moments.pearson(), before)


def test_means_by_assay_leave_out_tracks_without_one():
    nan = float("nan")
    pearson = torch.tensor([0.5, nan, 0.7, 0.1, nan], dtype=torch.float64)
    assays = ["cage", "cage", "cage", "atac", "chip"]
    summary = summarise_by_assay(pearson, assays)
    assert {assay: part.tracks for assay, part in summary.items()} == {
        "atac": 1, "cage": 3, "chip": 1,
    }  # fmt: skip
    means = {assay: part.mean for assay, part in summary.items()}
    assert list(means) == ["atac", "cage", "chip"]
    assert [means["atac"], means["cage"]] == pytest.approx([0.1, 0.6])
    assert np.isnan(means["chip"])


def test_targets_that_were_not_measured_do_not_count():
    x, y = correlated(1.0, 1.0)
    unmeasured = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    unmeasured[..., 2] = True
    moments = PearsonMoments(3)
    # Whatever is predicted there, even NaN.
    moments.update(x.masked_fill(unmeasured, torch.nan), y.masked_fill(unmeasured, torch.nan))
    for track in (0, 1):
        kept = ~unmeasured[..., track]
        r, r2 = two_pass(x[..., track][kept][:, None], y[..., track][kept][:, None])
        assert float(moments.pearson()[track]) == pytest.approx(r[0], rel=1e-9)
        assert float(moments.r2()[track]) == pytest.approx(r2[0], rel=1e-9)
    assert moments.pearson()[2].isnan() and moments.r2()[2].isnan()
    assert torch.equal(moments.tensor()[0], (~unmeasured).flatten(0, -2).sum(0).double())


def test_a_prediction_that_is_nan_where_it_was_measured_is_not_hidden():
    x, y = correlated(1.0, 1.0)
    x[0, 0, 1] = torch.nan
    assert moments_of(x, y).pearson().isnan().tolist() == [False, True, False]
