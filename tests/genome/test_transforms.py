"""Each transform against a plain NumPy statement of spec/data.md."""

import numpy as np
import pytest

from spacescale.errors import UserError
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import TRANSFORMS, get_transform, to_float16

BINS, BIN_SIZE = 50, 32
CLIP, CLIP_SOFT, SCALE = 40.0, 8.0, 2.5


@pytest.fixture
def coverage():
    rng = np.random.default_rng(0)
    x = rng.gamma(0.5, 2.0, size=(BINS, BIN_SIZE)).astype(np.float32)
    x[::7, ::3] = np.nan
    x[5] = np.nan
    return x


def track(sum_stat, clip: float | None = CLIP, clip_soft: float | None = CLIP_SOFT, scale=SCALE):
    return Track(0, "t", "t.bw", 0, clip, clip_soft, scale, sum_stat)


def filled(coverage):
    return np.where(np.isnan(coverage), 0, coverage).astype(np.float64)


def older_order(pooled):
    """basenji2020 and borzoi once pooled: soft clip, hard clip, scale."""
    soft = [CLIP_SOFT + np.sqrt(x - CLIP_SOFT) if x > CLIP_SOFT else x for x in pooled]
    return SCALE * np.clip(soft, 0, CLIP)


def current_order(pooled):
    soft = [CLIP_SOFT - 1 + np.sqrt(x - CLIP_SOFT + 1) if x > CLIP_SOFT else x for x in pooled]
    return np.clip(soft, -CLIP, CLIP)


PLAIN = {
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.max(1),
    "median": lambda x: np.median(x, 1),
}


@pytest.mark.parametrize("name", ["basenji2020", "borzoi", "current"])
@pytest.mark.parametrize("sum_stat", list(PLAIN))
def test_plain_statistics(coverage, name, sum_stat):
    found = get_transform(name).bins(coverage, track(sum_stat))
    x = filled(coverage)
    if name == "current":
        expected = current_order(PLAIN[sum_stat](SCALE * x))
    else:
        expected = older_order(PLAIN[sum_stat](x))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_borzoi_sum_sqrt_is_the_power_three_quarters(coverage):
    found = get_transform("borzoi").bins(coverage, track("sum_sqrt"))
    np.testing.assert_allclose(found, older_order(filled(coverage).sum(1) ** 0.75), rtol=1e-5)


@pytest.mark.parametrize(
    "sum_stat, statement",
    [
        ("sum_sqrt", lambda x: np.sqrt(1 + x.sum(1)) - 1),
        ("mean_sqrt", lambda x: np.sqrt(1 + x.mean(1)) - 1),
        ("sum_exp75", lambda x: (1 + x.sum(1)) ** 0.75 - 1),
    ],
)
def test_current_roots(coverage, sum_stat, statement):
    found = get_transform("current").bins(coverage, track(sum_stat))
    expected = current_order(statement(SCALE * filled(coverage)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_three_orders_differ_and_have_all_pools():
    assert list(TRANSFORMS["basenji2020"].pools) == ["sum", "mean", "max", "median"]
    assert list(TRANSFORMS["borzoi"].pools) == [*PLAIN, "sum_sqrt"]
    assert list(TRANSFORMS["current"].pools) == [*PLAIN, "sum_sqrt", "mean_sqrt", "sum_exp75"]


def test_current_ends_with_a_clip_at_the_extreme_quantile():
    values = np.arange(2000, dtype=np.float16)
    limit = np.float16(np.quantile(values.astype(np.float32), 0.9999999))
    finished = get_transform("current").finish(values)
    assert np.array_equal(finished, np.minimum(values, limit))
    assert np.array_equal(get_transform("borzoi").finish(values), values)


def test_hard_clip_bounds():
    low = np.full((1, BIN_SIZE), -100, dtype=np.float32)
    assert get_transform("basenji2020").bins(low, track("mean", scale=1))[0] == 0
    assert get_transform("current").bins(low, track("mean", scale=1))[0] == -CLIP
    assert get_transform("basenji2020").bins(low, track("mean", clip=None, scale=1))[0] == -100


def test_pooling_before_float16_saturates_only_what_must():
    coverage = np.full((2, BIN_SIZE), 2000, dtype=np.float32)
    coverage[1] = 4000
    pooled = get_transform("basenji2020").bins(coverage, track("sum", None, None, 1.0))
    stored, saturated = to_float16(pooled)
    assert stored.tolist() == [64000, 65504]
    assert saturated == 1


def test_unknown_sum_stat_names_track_and_choice():
    with pytest.raises(
        UserError, match="track t: transform basenji2020 has no sum_stat 'sum_sqrt'"
    ):
        get_transform("basenji2020").check(track("sum_sqrt"))


def test_root_of_negative_coverage_is_refused():
    with pytest.raises(UserError, match="track t: sum_stat sum_sqrt is undefined"):
        get_transform("borzoi").bins(np.full((1, 4), -1, np.float32), track("sum_sqrt"))
