import math

from spacescale.metrics.throughput import Throughput, memory_gib


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_over_the_last_steps():
    clock = Clock()
    speed = Throughput(last=2, clock=clock)
    assert math.isnan(speed.windows_per_s) and math.isnan(speed.time_left_s(10))
    for seconds in (100.0, 1.0, 1.0):
        clock.now += seconds
        speed.step(windows=6)
    assert speed.windows_per_s == 6.0
    assert speed.time_left_s(10) == 10.0


def test_a_pause_does_not_count():
    clock = Clock()
    speed = Throughput(clock=clock)
    clock.now += 50.0
    speed.restart()
    clock.now += 2.0
    speed.step(windows=8)
    assert speed.windows_per_s == 4.0


def test_the_share_of_time_that_waits_for_data():
    clock = Clock()
    speed = Throughput(last=2, clock=clock)
    assert math.isnan(speed.data_wait_share)
    for waited_s in (5.0, 6.0, 8.0):
        clock.now += 10.0
        speed.step(windows=1, waited_s=waited_s)
    assert speed.data_wait_share == 0.15
    speed.restart()
    clock.now += 10.0
    speed.step(windows=1, waited_s=9.0)
    assert speed.data_wait_share == 0.1


def test_memory_of_this_process():
    assert 0.01 < memory_gib() < 1000
