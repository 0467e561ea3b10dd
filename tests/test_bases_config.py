from itertools import pairwise

import pytest

from spacescale.bases_config import BasesConfig, Phase, mean_masked_share, phase_at
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


def test_the_mean_share_of_masked_windows():
    assert mean_masked_share(BasesConfig(schedule="joint", mask_windows=0.4)) == 0.4
    first = BasesConfig(schedule="first", first_share=0.3)
    assert mean_masked_share(first) == pytest.approx(0.3)
    both = BasesConfig(first_share=0.5, untracked=0.5, mask_windows=0.5)
    assert mean_masked_share(both) == pytest.approx(0.5 + 0.5 * 0.75)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bases.span_min=21", "bases.span_min=21 exceeds span_max=20"),
        ("bases.random_share=0.3", "masked_share=0.8 and random_share=0.3 exceed 1 together"),
        ("bases.rate_up_to=0.1", "bases.rate_up_to=0.1 is below rate=0.15"),
        ("bases.rate=1", "bases.rate=1: Input should be less than 1"),
        ("bases.schedule=last", "bases.schedule='last': Input should be 'joint', 'first'"),
        ("bases.lambda=1", "section 'bases' has no field 'lambda'"),
        ("objective=bases", "objective='bases': Input should be 'profiles'"),
    ],
)
def test_a_bad_value_is_named(override, message):
    with pytest.raises(UserError, match=message):
        build_config("space_demo", [override])


def test_the_head_is_a_sixth_of_the_stem_but_not_too_narrow():
    assert BasesConfig().width_of_head(768) == 128
    assert BasesConfig().width_of_head(32) == 32
    assert BasesConfig(head_width=8).width_of_head(768) == 8
