"""Intervals of differences hold the truth as often as they say, for few seeds, too."""

import numpy as np
import pytest
import torch
from made_up_arms import ASSAYS, BLOCKS, drawn_targets, moments_of

from spacescale.ablation.compare import (
    OVER_ALL,
    ArmScores,
    SpeciesTracks,
    compare,
    p_value,
)
from spacescale.tasks.resampling import holm

SPECIES = {
    name: SpeciesTracks(tuple(str(i) for i in range(len(assays))), assays, BLOCKS)
    for name, assays in ASSAYS.items()
}


def arm(name, strengths, random, targets):
    """An arm with a run of each strength."""
    runs = [{n: moments_of(y, s, random) for n, y in targets.items()} for s in strengths]
    return ArmScores(name, {n: torch.from_numpy(np.stack([r[n] for r in runs])) for n in targets})


def covers(interval):
    return interval.low <= 0 <= interval.high


@pytest.mark.parametrize(("seeds", "at_most"), [(2, 0.995), (3, 0.99)])
def test_the_null_control_holds_0(seeds, at_most):
    """Both arms are one, whose seeds differ by more than windows do: Student's t is needed.

    Of two seeds Welch's freedom is between 1 and 2: his intervals hold 0 in 97.7 % of draws where
    both spread alike, and in 95.1 % at 5:1, where 2 degrees of freedom for all would hold 90.2 %.
    """
    held = []
    for repetition in range(120):
        random = np.random.default_rng([repetition, seeds])
        targets = drawn_targets(repetition)
        strengths = 1 + 0.2 * random.normal(size=(2, seeds))
        arms = [arm(name, of, random, targets) for name, of in zip("ab", strengths, strict=True)]
        last = compare(SPECIES, arms, draws=400).differences[-1]
        assert last.row == OVER_ALL
        held.append(covers(last.interval))
    assert 0.92 <= np.mean(held) <= at_most


def test_a_difference_is_found_and_as_large_as_it_is():
    random, targets = np.random.default_rng(0), drawn_targets()
    first = arm("first", [1.0, 1.02, 0.98, 1.01, 0.99], random, targets)
    worse = arm("worse", [0.5, 0.51, 0.49, 0.5, 0.5], random, targets)
    same = arm("same", [1.01, 1.0, 0.99], random, targets)
    found = compare(SPECIES, [first, worse, same])
    rows = [("finch", "cage"), ("finch", "tf_chip"), ("finch", "all"), ("moth", "cage"), OVER_ALL]
    assert list(found.scores) == rows
    assert found.tracks[OVER_ALL] == (4, 4)
    assert found.scores["finch", "cage"]["worse"] == pytest.approx(
        worse.pearson("finch")[:, :2].mean(1).tolist()
    )
    by_arm = {d.arm: d for d in found.differences if d.row == OVER_ALL}
    assert by_arm["worse"].interval.high < 0 and by_arm["worse"].corrected < 0.01
    assert covers(by_arm["same"].interval) and by_arm["same"].p > 0.1
    scores = found.scores[OVER_ALL]
    mean = np.mean(scores["worse"]) - np.mean(scores["first"])
    assert by_arm["worse"].value == pytest.approx(mean)
    assert by_arm["worse"].interval.low < mean < by_arm["worse"].interval.high


def test_blocks_are_drawn_in_pairs():
    """One prediction, and it again a little worse: blocks differ by far more than these two."""
    random, targets = np.random.default_rng(0), drawn_targets()
    first = arm("first", [1.0], random, targets)
    again = ArmScores("again", {n: m.clone() for n, m in first.moments.items()})
    assert {d.interval.high for d in compare(SPECIES, [first, again]).differences} == {0.0}


def test_a_constant_target_is_left_out_of_all_arms():
    random, targets = np.random.default_rng(0), drawn_targets()
    first, other = (arm(name, [1.0, 1.1], random, targets) for name in ("first", "other"))
    whole = compare(SPECIES, [first, other], draws=50)
    for of in (first, other):
        of.moments["finch"][:, :, [2, 4, 5], 0] = 0  # y, yy and xy
    found = compare(SPECIES, [first, other], draws=50)
    assert found.tracks["finch", "cage"] == (1, 2)
    kept = first.pearson("finch")[:, 1].tolist()
    assert found.scores["finch", "cage"]["first"] == pytest.approx(kept)
    assert whole.scores["finch", "cage"]["first"] != pytest.approx(kept)


def test_a_run_that_predicts_a_constant_has_lost():
    random, targets = np.random.default_rng(0), drawn_targets()
    first, other = (arm(name, [1.0, 1.1], random, targets) for name in ("first", "other"))
    whole = compare(SPECIES, [first, other], draws=50)
    other.moments["finch"][1, :, [1, 3, 5], 0] = 0  # x, xx and xy: 0 everywhere
    found = compare(SPECIES, [first, other], draws=50)
    row = ("finch", "cage")
    assert found.tracks[row] == (2, 2) and found.scores[row]["first"] == whole.scores[row]["first"]
    assert found.scores[row]["other"][0] == whole.scores[row]["other"][0]
    assert found.scores[row]["other"][1] == pytest.approx(other.pearson("finch")[1, 1] / 2)


def test_p_values_and_their_correction():
    draws = torch.arange(-1.0, 98.0)
    assert p_value(draws) == pytest.approx(2 * 3 / 100)  # -1 and 0 are not above 0
    assert np.isnan(p_value(torch.tensor([torch.nan])))
    nan = float("nan")
    assert holm([0.01, 0.04, nan, 0.03]) == pytest.approx([0.03, 0.06, nan, 0.06], nan_ok=True)


def test_over_all_is_corrected_for_arms_alone():
    random, targets = np.random.default_rng(0), drawn_targets()
    arms = [arm(name, [1.0, 1.1], random, targets) for name in ("a", "b", "c")]
    over_all = [d for d in compare(SPECIES, arms, draws=99).differences if d.row == OVER_ALL]
    assert [d.corrected for d in over_all] == holm([d.p for d in over_all])
