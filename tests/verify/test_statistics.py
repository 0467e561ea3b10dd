import numpy as np
import pytest

from spacescale.verify.statistics import TargetStatistics


@pytest.fixture
def targets():
    """Targets of 6 windows, float16 [windows, bins, tracks], with every special value."""
    values = np.random.default_rng(0).normal(0, 3, (6, 5, 4)).astype(np.float16)
    values[0, 0, 0], values[1, 2, 0], values[2, 1, 1] = np.nan, np.inf, 65504
    values[:, :, 2] = 0
    values[:, :, 3] = np.nan
    return values


def gathered(windows: np.ndarray) -> TargetStatistics:
    statistics = TargetStatistics.empty(windows.shape[2])
    for window in windows:
        statistics.add(window)
    return statistics


def test_against_a_plain_statement(targets):
    found, flat = gathered(targets), targets.reshape(-1, 4).astype(np.float64)
    assert (found.windows, found.bins) == (6, 30)
    assert found.measured.tolist() == [29, 30, 30, 0]
    assert found.nonzero.tolist() == [29, 30, 0, 0]
    assert found.infinite.tolist() == [1, 0, 0, 0]
    assert found.saturated.tolist() == [0, 1, 0, 0]
    finite = [column[np.isfinite(column)] for column in flat.T[:3]]
    np.testing.assert_allclose(found.mean[:3], [column.mean() for column in finite], atol=1e-12)
    assert np.isnan(found.mean[3]) and np.isnan(found.nonzero_share[3])
    assert found.smallest[:3].tolist() == [column.min() for column in finite]
    assert found.largest[:3].tolist() == [np.inf, 65504.0, 0.0]


def test_parts_add_up(targets):
    whole, parts = gathered(targets), gathered(targets[:2]) + gathered(targets[2:])
    assert parts.windows == 6
    for name in ("measured", "nonzero", "saturated", "infinite", "smallest", "largest"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    np.testing.assert_allclose(parts.total, whole.total)
    empty = TargetStatistics.empty(4)
    np.testing.assert_array_equal((empty + whole).smallest, whole.smallest)
