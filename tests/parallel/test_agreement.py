"""What two ranks say of each other's settings, and of failures of one."""

import pytest

from spacescale.errors import UserError
from spacescale.parallel import agreement, comm
from spacescale.parallel.agreement import require_agreement
from spacescale.testing.ranks import run_ranks

SAME = {
    "run": {"seed": 0},
    "model": {"dim": 48, "species": {"finch": ["cage"] * 100}},
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "species order": ["finch", "moth"],
    "data manifest": {"finch": "a" * 64},
}
OF_RANK_1 = {
    "seed": SAME | {"run": {"seed": 5}},
    "stage": SAME | {"deepspeed": {"zero_optimization": {"stage": 1}}},
    "order": SAME | {"species order": ["moth", "finch"]},
    "data": SAME | {"data manifest": {"finch": "a" * 63 + "b"}},
    "missing": {name: value for name, value in SAME.items() if name != "run"},
    "many": {"run": {"seed": 1}, "a": 1, "b": 1, "c": 1},
    "same": SAME,
}


def told(work):
    try:
        work()
    except UserError as error:
        return str(error), isinstance(error, comm.OtherRankFailed)
    return None


def fail_on(rank):
    if comm.rank() == rank:
        raise UserError("no such thing")


def compare():
    found = {
        name: told(lambda facts=facts: require_agreement(facts if comm.rank() else SAME))
        for name, facts in OF_RANK_1.items()
    }
    if comm.rank():
        agreement._source_hash = lambda: "0" * 64
    found["source"] = told(lambda: require_agreement({}))
    found["on_all"] = told(lambda: comm.on_all(lambda: fail_on(1)))
    found["on_main"] = told(lambda: comm.on_main(lambda: fail_on(0)))
    return found


@pytest.fixture(scope="module")
def of_ranks():
    return run_ranks(compare, 2)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("seed", "disagree on run.seed (0 on rank 0, 5 on rank 1). Start all of them with the"),
        ("stage", "disagree on deepspeed.zero_optimization.stage (2 on rank 0, 1 on rank 1)"),
        ("order", 'on species order (["finch", "moth"] on rank 0, ["moth", "finch"] on rank 1)'),
        ("data", f"on data manifest.finch ({'a' * 30}… (sha256 "),
        ("missing", "on run.seed (0 on rank 0, nothing on rank 1)"),
        ("many", "; and 6 more. Start"),
        ("source", "source 000000000000 on rank 1). Start"),
    ],
)
def test_a_disagreement_is_named_alike_on_all_ranks_with_both_values(of_ranks, case, message):
    (first, _), (second, _) = (found[case] for found in of_ranks)
    assert first == second and message in first


def test_ranks_that_agree_go_on(of_ranks):
    assert [found["same"] for found in of_ranks] == [None, None]


def test_a_failure_on_one_rank_reaches_all_which_know_whose_it_was(of_ranks):
    text = "rank 1: no such thing"
    assert [found["on_all"] for found in of_ranks] == [(text, True), (text, False)]
    text = "no such thing"
    assert [found["on_main"] for found in of_ranks] == [(text, False), (text, True)]
