import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spacescale.errors import UserError
from spacescale.prepare.jobs import local_workers, run_jobs


def square(number):
    return number * number


def test_every_job_runs_once_wherever_it_runs():
    jobs = [(number,) for number in range(20)]
    assert list(run_jobs(None, square, jobs)) == [n * n for n in range(20)]
    with local_workers(2) as pool:
        assert sorted(run_jobs(pool, square, jobs)) == [n * n for n in range(20)]


def test_an_error_appears_after_the_running_jobs_and_before_the_waiting_ones():
    ended = []

    def work(number):
        if number == 0:
            raise UserError("the first job fails")
        time.sleep(0.2)
        ended.append(number)

    with ThreadPoolExecutor(3) as pool, pytest.raises(UserError, match="the first job fails"):
        try:
            list(run_jobs(pool, work, [(number,) for number in range(50)]))
        finally:
            at_error = list(ended)
    assert {1, 2} <= set(at_error) == set(ended)
    assert len(ended) < 10


def end_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_a_clear_error():
    with pytest.raises(UserError, match="a worker process died"), local_workers(2) as pool:
        list(run_jobs(pool, end_itself, [()]))


def blocked_signals():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_ctrl_c_does_not_reach_workers_even_while_they_import():
    before = blocked_signals()
    with local_workers(2) as executor:
        found = list(run_jobs(executor, blocked_signals, [(), ()]))
    assert all(signal.SIGINT in blocked for blocked in found)
    assert blocked_signals() == before
