import math

import pytest

from spacescale.train.spikes import WINDOW, SpikeWatch


def watched(values):
    watch = SpikeWatch()
    for value in values:
        watch.remember({"loss": value, "gradient norm": 2 * value})
    return watch


def test_a_value_beyond_six_deviations_is_a_spike():
    watch = watched([1.0, 1.2] * (WINDOW // 2))  # mean 1.1, deviation 0.1
    assert watch.spikes({"loss": 1.69, "gradient norm": 3.38}) == []
    assert watch.spikes({"loss": 1.71, "gradient norm": 2.0}) == [
        "loss 1.71, 6 standard deviations above 1.1"
    ]
    assert len(watch.spikes({"loss": 2.0, "gradient norm": 4.0})) == 2
    assert watch.spikes({"loss": 0.0, "gradient norm": math.nan}) == []


def test_few_steps_tell_nothing():
    assert watched([1.0, 1.2] * (WINDOW // 4 - 1)).spikes({"loss": 99.0}) == []
    assert watched([1.0, 1.2] * (WINDOW // 4)).spikes({"loss": 99.0})


def test_a_level_that_changed_for_good_is_no_spike_for_long():
    watch = watched([1.0, 1.2] * (WINDOW // 2) + [5.0, 5.2] * 8)
    assert not watch.spikes({"loss": 5.1})


def test_values_that_are_not_finite_are_forgotten():
    watch = watched([1.0, math.nan, 1.2, math.inf] * WINDOW)
    assert watch.spikes({"loss": 1.71})


@pytest.mark.parametrize("count", [10, WINDOW, 3 * WINDOW])
def test_a_restored_watch_judges_alike(count):
    watch, resumed = watched([1.0 + 0.1 * (n % 7) for n in range(count)]), SpikeWatch()
    resumed.restore(watch.state())
    for value in (1.5, 2.5, 2.9, 3.5):
        assert resumed.spikes({"loss": value}) == watch.spikes({"loss": value})
