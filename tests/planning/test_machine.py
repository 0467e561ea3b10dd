import pytest

from spacescale.errors import UserError
from spacescale.planning.machine import MACHINES, Machine, named_machine, step_time
from spacescale.planning.states import Layout
from spacescale.planning.traffic import Collective

MACHINE = Machine(tflops=1, within_gbytes=100, between_gbytes=10, memory_gib=1, latency_us=0)
GIGABYTE = 1e9


def seconds(operation, group, gpus, layout, machine=MACHINE, calls=1):
    """Time of a collective of which every GPU sends a gigabyte."""
    passes = 2 if operation == "all_reduce" else 1
    payload = GIGABYTE * gpus / (gpus - 1) / passes if gpus > 1 else GIGABYTE
    traffic = {"it": [Collective(operation, group, gpus, payload, calls)]}
    return step_time(machine, layout, traffic, flops=0).communication["it"]


def test_within_a_node_the_faster_link_counts():
    assert seconds("all_reduce", "all", 8, Layout(8, 1, 1)) == pytest.approx(1 / 100)
    assert seconds("all_to_all", "expert_parallel", 4, Layout(64, 1, 4)) == pytest.approx(1 / 100)
    assert seconds("all_gather", "expert_replicas", 2, Layout(8, 1, 4)) == pytest.approx(1 / 100)


def test_between_nodes_a_group_has_the_network_share_of_its_gpus_in_a_node():
    assert seconds("all_reduce", "all", 64, Layout(64, 1, 1)) == pytest.approx(1 / 80)
    apart = Layout(64, 1, 8)
    assert seconds("all_reduce", "expert_replicas", 8, apart) == pytest.approx(1 / 10)
    # To 7 GPUs of its own node and to 8 of another.
    wide = Layout(64, 1, 16)
    expected = (7 / 100 + 8 / 10) / 15
    assert seconds("all_to_all", "expert_parallel", 16, wide) == pytest.approx(expected)


def test_a_group_of_one_takes_no_time_and_others_wait_per_call_and_doubling():
    slow = Machine(1, 100, 10, 1, latency_us=5)
    assert seconds("all_reduce", "all", 1, Layout(1, 1, 1), slow) == 0
    waited = seconds("all_reduce", "all", 8, Layout(8, 1, 1), slow, calls=10) - 1 / 100
    assert waited == pytest.approx(10 * 3 * 5e-6)


def test_computing_and_communication_add_up():
    traffic = {"sums": [Collective("all_reduce", "all", 2, 50 * GIGABYTE, 1)]}
    found = step_time(MACHINE, Layout(2, 1, 1), traffic, flops=5e11)
    assert (found.compute, found.total, found.efficiency) == pytest.approx((0.5, 1.0, 0.5))


def test_named_machines_take_other_rates():
    assert named_machine("h200", tflops=None) == MACHINES["h200"]
    assert named_machine("a40", tflops=75.0).tflops == 75
    with pytest.raises(UserError, match="--machine b7: expected one of a40, h100, h200"):
        named_machine("b7")


@pytest.mark.parametrize(
    ("rate", "option"),
    [
        ({"tflops": 0}, "--tflops 0"),
        ({"between_gbytes": -1}, "--link-gbytes-per-s -1"),
        ({"gpus_per_node": 0}, "--gpus-per-node 0"),
        ({"latency_us": -2}, "--latency-us -2"),
    ],
)
def test_rates_that_cannot_be_are_refused(rate, option):
    with pytest.raises(UserError, match=option):
        named_machine("a40", **rate)
