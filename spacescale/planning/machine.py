"""What a machine computes and sends, as stated rates, and how long a step would take on it.

Nothing overlaps: the trainer runs DeepSpeed with `overlap_comm` off, and waits for every
collective of its own. Not counted are the optimiser's own work, reading data and validation.
Collectives go at the rate of the slowest link on their way. A group that has several GPUs in a
node uses the network share of all of them. Ranks fill one node after the other, so the GPUs that
share a set of experts are neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from spacescale.errors import UserError
from spacescale.planning.states import Layout
from spacescale.planning.traffic import Collective, Traffic


@dataclass(frozen=True)
class Machine:
    """Rates that one GPU reaches, not those of its data sheet."""

    tflops: float  # 10¹² operations per second of the whole model's products
    within_gbytes: float  # 10⁹ bytes per second that it sends to other GPUs of its node
    between_gbytes: float  # 10⁹ bytes per second: its share of its node's network
    memory_gib: float
    gpus_per_node: int = 8
    latency_us: float = 10.0  # of a collective, for each doubling of the GPUs that take part

    def __post_init__(self):
        """Raise UserError for a rate or size that cannot be."""
        options = {
            "--tflops": self.tflops,
            "--link-gbytes-per-s": min(self.within_gbytes, self.between_gbytes),
            "--gpus-per-node": self.gpus_per_node,
        }
        for option, value in options.items():
            if value <= 0:
                raise UserError(f"{option} {value}: expected more than 0")
        if self.latency_us < 0:
            raise UserError(f"--latency-us {self.latency_us}: expected at least 0")


# Products: 40 % of the data sheets' dense bf16 rate (149.7 and 989 TFLOP/s), an assumption.
# Links of H100 and H200: 370 GB/s of NVLink's 450 (NVIDIA/nccl-tests#212) and 46 GB/s of a
# 400 Gb/s InfiniBand card per GPU (NVIDIA/nccl-tests#290). Links of A40 machines, over PCIe 4.0
# and one 200 Gb/s card per node: assumptions. Latency: NVIDIA/nccl#1244 shows 46 µs at 16 GPUs.
MACHINES = {
    "a40": Machine(tflops=60, within_gbytes=12, between_gbytes=3, memory_gib=44.5),
    "h100": Machine(tflops=396, within_gbytes=370, between_gbytes=46, memory_gib=79.6),
    "h200": Machine(tflops=396, within_gbytes=370, between_gbytes=46, memory_gib=139.8),
}


def named_machine(name: str, **rates: float | None) -> Machine:
    """One of MACHINES, with those `rates` (by field) that are not None in place of its own.

    Raises UserError for a name that is not known and for rates that cannot be.
    """
    if name not in MACHINES:
        raise UserError(f"--machine {name}: expected one of {', '.join(MACHINES)}")
    return replace(MACHINES[name], **{k: rate for k, rate in rates.items() if rate is not None})


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step."""

    compute: float
    communication: dict[str, float]  # by kind of traffic

    @property
    def total(self) -> float:
        """One after the other."""
        return self.compute + sum(self.communication.values())

    @property
    def efficiency(self) -> float:
        """Share of the time that goes into computing."""
        return self.compute / self.total


def step_time(machine: Machine, layout: Layout, traffic: Traffic, flops: float) -> StepTime:
    """Time of a step of so many operations per GPU."""
    communication = {
        kind: sum(_seconds(machine, layout, collective) for collective in collectives)
        for kind, collectives in traffic.items()
    }
    return StepTime(flops / (machine.tflops * 1e12), communication)


def _seconds(machine: Machine, layout: Layout, collective: Collective) -> float:
    if collective.gpus == 1:
        return 0.0
    waiting = collective.calls * machine.latency_us / 1e6 * math.ceil(math.log2(collective.gpus))
    return waiting + collective.sent / 1e9 / _gbytes_per_s(machine, layout, collective)


def _gbytes_per_s(machine: Machine, layout: Layout, collective: Collective) -> float:
    """Rate at which each GPU of the group sends."""
    near = _gpus_of_group_in_a_node(machine, layout, collective)
    if near >= collective.gpus:
        return machine.within_gbytes
    if collective.operation == "all_to_all":  # every GPU sends to every other
        outside = (collective.gpus - near) / (collective.gpus - 1)
        return 1 / (outside / machine.between_gbytes + (1 - outside) / machine.within_gbytes)
    return min(machine.within_gbytes, near * machine.between_gbytes)  # rings


def _gpus_of_group_in_a_node(machine: Machine, layout: Layout, collective: Collective) -> int:
    if collective.group == "expert_replicas":  # one in ep_size ranks
        return max(1, machine.gpus_per_node // layout.ep_size)
    return machine.gpus_per_node
