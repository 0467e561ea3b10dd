from itertools import pairwise

import pytest

from spacescale.config import OptimConfig
from spacescale.train.schedule import learning_rate


def rates(**settings) -> list[float]:
    """Rates of all steps, and what the schedule would give one step after the last."""
    optim = OptimConfig(**({"lr": 2.0, "max_steps": 110, "warmup_steps": 10} | settings))
    return [learning_rate(step, optim) for step in range(optim.max_steps + 1)]


def test_warm_up_rises_linearly_and_its_last_step_has_the_full_rate():
    assert rates()[:10] == pytest.approx([0.2 * step for step in range(1, 11)])


def test_cosine_passes_through_half_and_ends_at_zero():
    found = rates()
    assert found[10] == 2.0
    assert found[35] == pytest.approx(2.0 * 0.853553, rel=1e-5)
    assert found[60] == pytest.approx(1.0)
    assert found[110] == pytest.approx(0.0, abs=1e-12)
    assert found[109] > 0


def test_linear_falls_evenly_to_its_last_fraction():
    found = rates(schedule="linear")
    assert found[10] == 2.0 and found[110] == 0.0
    assert found[35] == pytest.approx(1.5) and found[60] == pytest.approx(1.0)
    assert rates(schedule="linear", final_lr_fraction=0.5)[60] == pytest.approx(1.5)


def test_the_rate_never_rises_after_the_warm_up_nor_leaves_its_bounds():
    found = rates(final_lr_fraction=0.1)
    assert all(later < earlier for earlier, later in pairwise(found[10:]))
    assert found[110] == pytest.approx(0.2)
    assert max(found) == 2.0


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rates(warmup_steps=0)[0] == 2.0


def test_a_run_shorter_than_its_warm_up_is_refused():
    with pytest.raises(ValueError, match="warmup_steps=10 exceeds max_steps=5"):
        rates(max_steps=5)


def test_warm_up_of_the_whole_run_ends_at_the_full_rate():
    assert rates(max_steps=10)[9] == 2.0


def test_the_rate_stays_final_beyond_the_last_step():
    optim = OptimConfig(lr=2.0, max_steps=110, warmup_steps=10, final_lr_fraction=0.25)
    assert learning_rate(500, optim) == pytest.approx(0.5)
