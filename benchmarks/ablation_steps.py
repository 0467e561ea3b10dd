"""What a step of each arm of an ablation takes, side by side: the price of experts and decoders.

    python benchmarks/ablation_steps.py runs/experts --threads 1

Each arm's model makes a forward and a backward pass on the same windows in turn, round after round
and each round with another arm first, so that what else the machine does falls on all alike. Of
each arm the median over rounds of its seconds by those of the first arm in the same round, and
their middle half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spacescale.objectives import objective_of
from spacescale.overrides import build_config

CPU = torch.device("cpu")


def stepper(preset: str, overrides: list[str], paths: list[Path]) -> Callable[[int], None]:
    """What makes the step of a number, without the optimiser."""
    opened = objective_of(build_config(preset, overrides))
    datasets = opened.open(paths)
    objective = objective_of(opened.complete(datasets))
    torch.manual_seed(0)
    model = objective.build()
    objective.begin(datasets, CPU)
    windows = objective.windows(datasets, objective.config.data.micro_batch_size, 0, 1, 1)

    def step(number: int) -> None:
        model.zero_grad()
        objective.losses(model, windows[number], lambda x: x, number).total.backward()

    return step


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="of `spacescale ablate`")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = json.loads((args.out / "ablation.json").read_text())
    paths = [Path(path) for path in made["data"]]
    arms = {
        name: stepper(made["preset"], [*made["overrides"], *of], paths)
        for name, of in made["arms"].items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number in tqdm(range(args.rounds + 1), unit="round", disable=None):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            arms[name](number)
            seconds[name].append(time.perf_counter() - began)
    times = {name: np.array(of[1:]) for name, of in seconds.items()}  # the first round warms up
    of_first = times[names[0]]
    print("| arm | s a step | by the first arm's |", "|---|---|---|", sep="\n")
    for name, of in times.items():
        low, middle, high = np.quantile(of / of_first, [0.25, 0.5, 0.75])
        print(f"| `{name}` | {np.median(of):.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


if __name__ == "__main__":
    main()
