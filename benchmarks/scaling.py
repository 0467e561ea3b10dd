"""Predicted scaling from 1 to 4,096 GPUs: the tables and the figure of docs/scaling.md.

    python benchmarks/scaling.py [--out docs/figures/scaling.png]

Nothing is run: every number is of `spacescale.planning`. The tables go to standard output.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from spacescale.config import Config
from spacescale.overrides import build_config
from spacescale.planning.machine import MACHINES
from spacescale.planning.plan import RunPlan, make_plan
from spacescale.planning.species import micro_batch_windows, with_species
from spacescale.planning.states import Layout

GPUS = [2**n for n in range(13)]
WEAK = 8  # windows per GPU and step
STRONG = (128, 4096)  # windows per step: as published, and one per GPU at the end
ROOM = 0.9  # of a GPU's memory: the rest is for temporaries and buffers


@dataclass(frozen=True)
class Model:
    """A preset and how it is spread."""

    label: str
    config: Config
    ep_size: int
    micro_batch: int  # at most
    colour: str


def models() -> list[Model]:
    """The three sizes; experts are spread over a node where that helps or is needed."""

    def published(preset: str) -> Config:
        return with_species(build_config(preset, []), [])

    return [
        Model("588 M", published("space_large"), 1, 4, "#0072B2"),
        Model("2.7 B", published("space_2b"), 8, 4, "#D55E00"),
        Model("10.5 B", published("space_10b"), 8, 2, "#009E73"),
    ]


def plan_of(
    model: Model, gpus: int, windows: int, machine: str, zero: int = 1, ep: int | None = None
) -> RunPlan:
    """A step of that many windows per GPU."""
    micro_batch = min(model.micro_batch, windows)
    wanted = math.gcd(gpus, model.ep_size if ep is None else ep)
    return make_plan(
        model.config,
        Layout(gpus, zero, wanted),
        micro_batch_windows(model.config, micro_batch),
        "bf16",
        accumulation=windows // micro_batch,
        machine=MACHINES[machine],
    )


def fits(plan: RunPlan) -> bool:
    """Whether a GPU's memory holds it."""
    return plan.total_bytes / 2**30 <= ROOM * plan.machine.memory_gib


def largest_cost(plan: RunPlan) -> str:
    """The kind of traffic that takes most time, and its share of the step."""
    if plan.layout.gpus == 1:
        return "none"
    kind, seconds = max(plan.step.communication.items(), key=lambda item: item[1])
    return f"{kind} {seconds / plan.step.total:.0%}"


def sent_gb(plan: RunPlan) -> float:
    """10⁹ bytes that a GPU sends in a step."""
    return sum(c.sent for collectives in plan.traffic.values() for c in collectives) / 1e9


def weak_table(all_models: list[Model]) -> Iterator[str]:
    """The same work for every GPU, on H200 nodes."""
    heads = ("model", "GPUs", "windows per step", "GB sent per GPU", "step ms", "windows/s")
    yield f"| {' | '.join((*heads, 'efficiency', 'largest cost'))} |"
    yield "|---" * (2 + len(heads)) + "|"
    for model in all_models:
        for gpus in (1, 8, 64, 512, 4096):
            plan = plan_of(model, gpus, WEAK, "h200")
            yield f"| {model.label} | {gpus:,} | {plan.windows_per_step:,} | {weak_cells(plan)} |"


def weak_cells(plan: RunPlan) -> str:
    """What a step sends and how long it takes, where the model fits."""
    if not fits(plan):
        return f"does not fit: {plan.total_bytes / 2**30:.0f} GiB" + " |" * 4
    return (
        f"{sent_gb(plan):.1f} | {1e3 * plan.step.total:,.0f} | "
        f"{plan.windows_per_step / plan.step.total:,.0f} | {plan.step.efficiency:.0%} | "
        f"{largest_cost(plan)}"
    )


def stage_table(model: Model) -> Iterator[str]:
    """ZeRO stages with and without expert parallelism, at the published 16 windows per GPU."""
    layouts = [(zero, ep) for zero in (1, 2, 3) for ep in (1, 4)]
    heads = [f"ZeRO-{zero}, EP {ep}" for zero, ep in layouts]
    yield f"| {model.label} | GPUs | {' | '.join(heads)} |"
    yield "|---" * (2 + len(heads)) + "|"
    for machine in ("a40", "h200"):
        for gpus in (8, 64):
            plans = [plan_of(model, gpus, 16, machine, *layout) for layout in layouts]
            cells = [f"{plan.step.efficiency:.0%}" for plan in plans]
            yield f"| {machine.upper()} | {gpus} | {' | '.join(cells)} |"


def expert_table(all_models: list[Model]) -> Iterator[str]:
    """With and without expert parallelism: efficiency and memory."""
    yield "| H200, ZeRO-1 | GPUs | EP 1 | EP 8 |"
    yield "|---|---|---|---|"
    for model in all_models[1:]:
        for gpus in (8, 64, 512):
            plans = [plan_of(model, gpus, WEAK, "h200", ep=ep) for ep in (1, 8)]
            cells = [f"{p.step.efficiency:.0%}, {p.total_bytes / 2**30:.0f} GiB" for p in plans]
            yield f"| {model.label} | {gpus} | {' | '.join(cells)} |"


def curve(plans: list[RunPlan]) -> tuple[list[int], list[float]]:
    """GPUs and efficiency in percent, where the model fits."""
    shown = [plan for plan in plans if fits(plan)]
    return [p.layout.gpus for p in shown], [100 * p.step.efficiency for p in shown]


def draw_weak(axes, all_models: list[Model]) -> None:
    """The same work for every GPU."""
    for model in all_models:
        for machine, style in (("h200", "-"), ("a40", "--")):
            plans = [plan_of(model, gpus, WEAK, machine) for gpus in GPUS]
            label = f"{model.label}, EP {model.ep_size}" if machine == "h200" else None
            axes.plot(*curve(plans), style, color=model.colour, label=label, marker=".")
    axes.plot([], [], "-", color="0.4", label="H200 nodes")
    axes.plot([], [], "--", color="0.4", label="A40 nodes")
    axes.set_title(f"{WEAK} windows per GPU and step")


def draw_strong(axes, all_models: list[Model]) -> None:
    """The same batch, divided among more and more GPUs."""
    for batch, style in zip(STRONG, (":", "-"), strict=True):
        for model in all_models:
            plans = [plan_of(model, n, batch // n, "h200") for n in GPUS if n <= batch]
            axes.plot(*curve(plans), style, color=model.colour, marker=".")
        axes.plot([], [], style, color="0.4", label=f"{batch:,} windows per step")
    axes.annotate("1 window per GPU", (STRONG[0], 22), ha="center", va="top", color="0.4")
    axes.set_title("Fixed batch, H200 nodes")


def draw(all_models: list[Model], out: Path) -> None:
    """Both side by side."""
    figure, (weak, strong) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    draw_weak(weak, all_models)
    draw_strong(strong, all_models)
    weak.set_ylabel("computing, % of the step (predicted)")
    for axes in (weak, strong):
        axes.set_xscale("log", base=2)
        axes.set_xticks(GPUS[::3], [f"{n:,}" for n in GPUS[::3]])
        axes.set_ylim(0, 102)
        axes.set_xlabel("GPUs")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left")
    figure.savefig(out, dpi=150)


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description="Predict scaling from 1 to 4,096 GPUs.")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/scaling.png"))
    out = parser.parse_args().out
    all_models = models()
    print(*weak_table(all_models), "", sep="\n")
    print(*stage_table(all_models[0]), "", *expert_table(all_models), sep="\n")
    draw(all_models, out)


if __name__ == "__main__":
    main()
