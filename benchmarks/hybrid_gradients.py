"""Do profiles and hidden bases pull alike? Norms of the two losses' gradients at the last block.

    python benchmarks/hybrid_gradients.py simulated/joint-0 hybrid/joint-0

RUN is of `objective=profiles+bases`, and the batches are those that would follow its last step. Of
each loss, as its weight in that step makes it, the norm of the mean gradient over all batches is
printed, the mean norm over single ones, and the cosine between the two losses' mean gradients.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from spacescale.config import Config
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.objectives import objective_of
from spacescale.objectives.hybrid import HybridObjective
from spacescale.predict.trained_model import load_trained

CPU = torch.device("cpu")


def last_block(model: nn.Module) -> list[nn.Parameter]:
    """What the last transformer block learns."""
    blocks = {name.split(".")[1] for name, _ in model.named_parameters()
              if name.startswith("transformer.")}  # fmt: skip
    last = f"transformer.{max(blocks, key=int)}."
    return [p for name, p in model.named_parameters() if name.startswith(last)]


def flat_gradient(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Of all parameters in one vector (P,)."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def gradients(run: Path, batches: int) -> dict[str, float]:
    """Norms and cosine of one run. Raises SystemExit where it knows no hidden bases."""
    config = Config.model_validate(json.loads((run / "config.json").read_text())["spacescale"])
    objective = objective_of(config)
    if not isinstance(objective, HybridObjective):
        raise SystemExit(f"error: {run}: objective {config.objective}, not profiles+bases")
    step = max(row["step"] for row in read_metrics(run / METRICS_FILE)) - 1
    phase = objective.phase(step)
    datasets = objective.open([Path(path) for path in config.data.paths])
    objective.begin(datasets, CPU)
    windows = objective.windows(datasets, config.data.micro_batch_size, 0, 1, 1)
    model = load_trained(run).model.train()
    parameters = last_block(model)
    found: dict[str, list[Tensor]] = {"profiles": [], "bases": []}
    torch.manual_seed(0)  # of dropout
    for number in range(step + 1, step + 1 + batches):
        losses = objective.losses(model, windows[number], lambda x: x, step)
        bases = losses.terms["bases"]
        found["profiles"].append(flat_gradient(losses.total - bases, parameters))
        found["bases"].append(flat_gradient(bases, parameters))
    means = {name: torch.stack(each).mean(0) for name, each in found.items()}
    result = {"step": step + 1, "weight of bases": phase.bases}
    for name, each in found.items():
        result[f"{name}, mean gradient"] = float(means[name].norm())
        result[f"{name}, each batch"] = float(torch.stack([g.norm() for g in each]).mean())
    result["cosine"] = float(torch.cosine_similarity(*means.values(), dim=0))
    return result


def main() -> None:
    """Print the norms of each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--batches", type=int, default=32)
    args = parser.parse_args()
    for run in args.runs:
        found = gradients(run, args.batches)
        print(run.name, ", ".join(f"{name} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
