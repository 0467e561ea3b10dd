"""run_ranks: real processes whose results come back by rank and whose failures are seen."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from spacescale.parallel import comm
from spacescale.testing.ranks import run_ranks


def meet_then_maybe_fail(failing_rank):
    total = comm.add_over_ranks(torch.tensor(float(comm.rank() + 1)))
    if comm.rank() == failing_rank:
        raise ValueError(f"rank {failing_rank} cannot go on")
    return {"rank": comm.rank(), "world": dist.get_world_size(), "total": float(total)}


def test_results_come_back_in_rank_order_from_one_joined_group():
    assert run_ranks(meet_then_maybe_fail, 2, None) == [
        {"rank": 0, "world": 2, "total": 3.0},
        {"rank": 1, "world": 2, "total": 3.0},
    ]


def test_a_failing_rank_is_raised_with_its_traceback():
    with pytest.raises(Exception, match=r"(?s)Process 1 .*meet_then.*rank 1 cannot go on"):
        run_ranks(meet_then_maybe_fail, 2, 1)


def test_processes_that_never_end_are_killed():
    with pytest.raises(TimeoutError, match="sleep: not done after 1 s"):
        run_ranks(time.sleep, 1, 600, timeout_s=1)


def what_was_left_then_leave_some():
    found = os.environ.get("LEFT"), getattr(comm, "LEFT", None), torch.get_default_dtype()
    os.environ["LEFT"] = comm.LEFT = "behind"
    torch.set_default_dtype(torch.float64)
    return found


def test_no_call_sees_what_another_left():
    for _ in range(2):
        assert run_ranks(what_was_left_then_leave_some, 1) == [(None, None, torch.float32)]


def threads_of_the_parent():
    return len(list(Path(f"/proc/{os.getppid()}/task").iterdir())), "deepspeed" in sys.modules


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_are_forked_where_all_is_imported_and_no_thread_could_be_lost():
    assert run_ranks(threads_of_the_parent, 1) == [(1, True)]
