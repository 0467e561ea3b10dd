from itertools import pairwise

import pytest

from spacescale.bases_config import (
    BasesConfig,
    Phase,
    first_steps,
    mean_masked_share,
    phase_at,
    with_first_steps,
)
from spacescale.errors import UserError
from spacescale.overrides import build_config

STEPS = 100


def phases(**settings) -> list[Phase]:
    return [phase_at(step, BasesConfig(**settings), STEPS) for step in range(STEPS)]


def test_jointly_the_weight_goes_from_one_to_the_other():
    found = phases(schedule="joint", weight=0.2, final_weight=0.1, mask_windows=0.25)
    assert found[0] == Phase(0.2, 1.0, 0.25, 0.0)
    assert found[-1].bases == pytest.approx(0.1)
    assert all(a.bases > b.bases for a, b in pairwise(found))


def test_first_bases_count_alone_in_all_windows_and_then_profiles_alone():
    found = phases(schedule="first", first_share=0.3, untracked=0.25)
    assert found[:30] == [Phase(1.0, 0.0, 1.0, 1.0)] * 30
    assert found[30:] == [Phase(0.0, 1.0, 0.0, 0.0)] * 70
    assert phases(schedule="first")[0] == Phase(1.0, 0.0, 1.0, 0.0)


def test_first_bases_and_then_both():
    found = phases(weight=0.1, final_weight=0.03, untracked=0.25)
    assert found[32] == Phase(1.0, 0.0, 1.0, 1.0)
    assert found[33] == Phase(0.1, 1.0, 0.5, 0.25)
    assert found[-1].bases == pytest.approx(0.03)


@pytest.mark.parametrize(("schedule", "first"), [("first+joint", 33), ("first", 33), ("joint", 0)])
def test_more_steps_do_not_move_the_border(schedule, first):
    planned = with_first_steps(BasesConfig(schedule=schedule), STEPS)
    assert planned.first_steps == first_steps(planned, 3 * STEPS) == first
    before, after = (
        [phase_at(step, planned, steps) for step in range(STEPS)] for steps in (STEPS, 3 * STEPS)
    )
    for name in ("profiles", "masked", "untracked"):
        assert [getattr(p, name) for p in before] == [getattr(p, name) for p in after]
    assert before[:first] == after[:first]


def test_with_more_steps_the_weight_falls_to_the_end_as_the_learning_rate_does():
    planned = with_first_steps(BasesConfig(weight=0.1, final_weight=0.03), STEPS)
    weights = [phase_at(step, planned, 2 * STEPS).bases for step in (33, STEPS - 1, 2 * STEPS - 1)]
    assert weights[0] == 0.1 > weights[1] > 0.07 > 0.03 == pytest.approx(weights[2])


def test_the_border_may_be_given_in_steps():
    found = phases(first_steps=10, first_share=0.5)
    assert [phase.profiles for phase in found] == [0.0] * 10 + [1.0] * 90


def test_the_mean_share_of_masked_windows():
    assert mean_masked_share(BasesConfig(schedule="joint", mask_windows=0.4), 100) == 0.4
    first = BasesConfig(schedule="first", first_share=0.3)
    assert mean_masked_share(first, 100) == pytest.approx(0.3)
    in_steps = BasesConfig(schedule="first", first_share=0.3, first_steps=20)
    assert mean_masked_share(in_steps, 100) == pytest.approx(0.2)
    both = BasesConfig(first_share=0.5, untracked=0.5, mask_windows=0.5)
    assert mean_masked_share(both, 100) == pytest.approx(0.5 + 0.5 * 0.75)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bases.span_min=21", "bases.span_min=21 exceeds span_max=20"),
        ("bases.random_share=0.3", "masked_share=0.8 and random_share=0.3 exceed 1 together"),
        ("bases.rate_up_to=0.1", "bases.rate_up_to=0.1 is below rate=0.15"),
        ("bases.first_steps=-1", "bases.first_steps=-1: Input should be greater"),
        ("bases.rate=1", "bases.rate=1: Input should be less than 1"),
        ("bases.schedule=last", "bases.schedule='last': Input should be 'joint', 'first'"),
        ("bases.lambda=1", "section 'bases' has no field 'lambda'"),
        ("bases.schedule=joint bases.first_steps=3", "steps=3: with bases.schedule=joint bases co"),
        ("objective=bases", "objective='bases': Input should be 'profiles'"),
    ],
)
def test_a_bad_value_is_named(override, message):
    with pytest.raises(UserError, match=message):
        build_config("space_demo", override.split())


def test_bases_cannot_count_alone_for_longer_than_the_run():
    steps = ["optim.max_steps=8", "optim.warmup_steps=0", "bases.first_steps=9"]
    with pytest.raises(UserError, match=r"bases.first_steps=9 exceeds optim.max_steps=8; set both"):
        build_config("space_demo", ["objective=profiles+bases", *steps])


def test_the_head_is_a_sixth_of_the_stem_but_not_too_narrow():
    assert BasesConfig().width_of_head(768) == 128
    assert BasesConfig().width_of_head(32) == 32
    assert BasesConfig(head_width=8).width_of_head(768) == 8
