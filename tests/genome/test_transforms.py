"""Each transform against a plain NumPy statement of spec/data.md."""

from dataclasses import replace

import numpy as np
import pytest

from spacescale.errors import UserError
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import TRANSFORMS, get_transform, signed, to_float16

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


def older_order(pooled, lowest=0.0):
    """basenji2020 and borzoi once pooled: soft clip, hard clip, scale."""
    soft = [CLIP_SOFT + np.sqrt(x - CLIP_SOFT) if x > CLIP_SOFT else x for x in pooled]
    return SCALE * np.clip(soft, lowest, CLIP)


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


@pytest.mark.parametrize("sum_stat, plain", [("sum_sqrt", "sum"), ("mean_sqrt", "mean")])
def test_borzoi_roots_are_the_power_three_quarters(coverage, sum_stat, plain):
    found = get_transform("borzoi").bins(coverage, track(sum_stat))
    expected = older_order(PLAIN[plain](filled(coverage)) ** 0.75)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


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
    assert list(TRANSFORMS["borzoi"].pools) == [*PLAIN, "sum_sqrt", "mean_sqrt"]
    assert list(TRANSFORMS["current"].pools) == [*PLAIN, "sum_sqrt", "mean_sqrt", "sum_exp75"]


@pytest.mark.parametrize("name", ["borzoi", "current"])
def test_today_s_tools_end_with_a_clip_at_the_extreme_quantile(name):
    values = np.resize(np.arange(2000, dtype=np.float16), 60_000)
    values[7] = 30_000
    limit = np.float16(np.quantile(values.astype(np.float32), 0.9999999))
    assert limit < 30_000
    finish = get_transform(name).finish
    assert np.array_equal(finish(values), np.minimum(values, limit))
    # What was not measured does not count, and a track of negative values is not made 0.
    with_gaps = np.insert(values, [0, 900], np.nan)
    assert np.array_equal(finish(with_gaps)[1:901], finish(values)[:900])
    assert np.isnan(finish(with_gaps)[[0, 901]]).all()
    assert np.array_equal(finish(-values), -finish(values))
    assert np.isnan(finish(np.full(3, np.nan, np.float16))).all()


def test_basenji2020_does_not_clip_extremes():
    values = np.array([0, 1, 30_000], dtype=np.float16)
    assert np.array_equal(get_transform("basenji2020").finish(values), values)


def test_hard_clip_bounds():
    low = np.full((1, BIN_SIZE), -100, dtype=np.float32)
    assert get_transform("basenji2020").bins(low, track("mean", scale=1))[0] == 0
    assert get_transform("borzoi").bins(low, track("mean", scale=1))[0] == -CLIP
    assert get_transform("current").bins(low, track("mean", scale=1))[0] == -CLIP
    assert get_transform("basenji2020").bins(low, track("mean", clip=None, scale=1))[0] == -100


def plain_blacklist(window, blacklisted, percentile, clipped):
    """The blacklist as basenji (set) and baskerville (clipped) treat it, base by base."""
    ordered = np.sort(window)
    place = (len(ordered) - 1) * percentile / 100
    low, share = int(place), place - int(place)
    baseline = ordered[low] * (1 - share) + ordered[min(low + 1, len(ordered) - 1)] * share
    if np.isnan(window).any():
        baseline = 0
    out = []
    for value, black in zip(window, blacklisted, strict=True):
        value = 0 if np.isnan(value) else value
        if black and clipped:
            value = min(max(value, -baseline), baseline)
        elif black:
            value = baseline
        out.append(value)
    return np.array(out)


@pytest.mark.parametrize(
    "name, percentile, clipped", [("basenji2020", 10, False), ("borzoi", 50, True),
                                  ("current", 50, True)]
)  # fmt: skip
@pytest.mark.parametrize("holes", [False, True])
def test_blacklist(name, percentile, clipped, holes):
    rng = np.random.default_rng(1)
    window = rng.gamma(0.7, 3.0, size=(BINS + 20) * BIN_SIZE).astype(np.float32)
    if holes:
        window[40:50] = np.nan
    blacklisted = rng.random(window.size) < 0.3
    inside = slice(10 * BIN_SIZE, -10 * BIN_SIZE)
    cleaned = get_transform(name).mask_blacklisted(
        window[inside], blacklisted[inside], window, BINS
    )
    expected = plain_blacklist(window, blacklisted, percentile, clipped)[inside]
    np.testing.assert_allclose(np.nan_to_num(cleaned), expected, rtol=1e-5)
    assert (cleaned[blacklisted[inside]] == 0).all() == holes
    # With few bins the tools take a baseline of 0.
    few = get_transform(name).mask_blacklisted(window[inside], blacklisted[inside], window, 7)
    assert not np.nan_to_num(few)[blacklisted[inside]].any()


def test_a_missing_base_of_the_blacklist_stays_missing():
    window = np.array([1, np.nan, 3], dtype=np.float32)
    for transform in TRANSFORMS.values():
        cleaned = transform.mask_blacklisted(window, np.ones(3, bool), window, 8)
        assert np.isnan(cleaned).tolist() == [False, True, False]


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


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_scale_below_0_is_that_of_the_turned_track(name, scale):
    coverage = np.random.default_rng(0).gamma(1, 30, (6, 8)).astype(np.float32)
    coverage[2, 3], coverage[4] = np.nan, 0
    track = Track(0, "t", "t.bw", 0, clip=40.0, clip_soft=20.0, scale=scale)
    turned = replace(track, scale=-scale)
    expected = TRANSFORMS[name].bins(signed(coverage, track), track)
    found = TRANSFORMS[name].bins(signed(-coverage, turned), turned)
    assert expected.any() and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_abs_takes_the_magnitude_of_every_base(name):
    coverage = np.random.default_rng(0).normal(0, 9, (6, 8)).astype(np.float32)
    track = Track(0, "t", "t.bw", 0, sum_stat="abs_sum")
    TRANSFORMS[name].check(track)
    found = TRANSFORMS[name].bins(signed(coverage, track), track)
    plain = replace(track, sum_stat="sum")
    assert np.array_equal(found, TRANSFORMS[name].bins(np.abs(coverage), plain))
    with pytest.raises(UserError, match="give one of them"):
        TRANSFORMS[name].check(replace(track, scale=-1.0))


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("scale", [SCALE, -SCALE])
def test_coverage_comes_back_from_targets(coverage, name, scale):
    """All but what a hard clip took; values lie on both sides of the soft clip."""
    transform = TRANSFORMS[name]
    for sum_stat in transform.pools:
        made = track(sum_stat, clip=None, scale=scale)
        pooled = transform.pooled(coverage, made)
        targets = transform.limited(pooled, made)
        plain = replace(made, sum_stat=sum_stat.partition("_")[0])
        expected = transform.pooled(coverage, replace(plain, scale=1.0))
        found = transform.coverage(targets, made)
        expected = -expected if scale < 0 else expected
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=sum_stat)
        assert pooled.max() > CLIP_SOFT or sum_stat.startswith(("mean", "median"))
