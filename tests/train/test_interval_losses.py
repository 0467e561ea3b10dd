import math

import pytest

from spacescale.train.interval_losses import IntervalLosses, LossSum


def test_a_species_that_few_steps_hold_has_the_mean_over_all_its_windows():
    interval = IntervalLosses(["finch", "perch"])
    interval.add({"finch": LossSum(6.0, 2.0, 2), "perch": LossSum()})
    interval.add({"finch": LossSum(1.0, 1.0, 1), "perch": LossSum(2.0, 0.5, 1)})
    taken = interval.take()
    assert (taken["finch"].mean, taken["finch"].windows) == (pytest.approx(7 / 3), 3)
    assert (taken["perch"].mean, taken["perch"].windows) == (pytest.approx(4.0), 1)
    assert math.isnan(interval.take()["finch"].mean)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_windows_whose_loss_is_not_finite_are_left_out(bad):
    interval = IntervalLosses(["finch"])
    interval.add({"finch": LossSum(3.0, 1.0, 1)})
    interval.add({"finch": LossSum(bad, 2.0, 2)})
    assert interval.take()["finch"] == LossSum(3.0, 1.0, 1)


def test_a_resumed_interval_goes_on():
    whole, before, after = (IntervalLosses(["finch", "perch"]) for _ in range(3))
    steps = [{"finch": LossSum(0.1 * i, 1.0, 1)} for i in range(1, 5)]
    for step in steps:
        whole.add(step)
    for step in steps[:2]:
        before.add(step)
    after.restore(before.state())
    for step in steps[2:]:
        after.add(step)
    assert after.take() == whole.take()
    after.restore({})
    assert after.take()["finch"].windows == 0
