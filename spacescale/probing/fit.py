"""Learning a head on what is frozen.

Shapes: N sequences, B of a batch, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from spacescale.probing.features import Inputs, Vectors
from spacescale.probing.heads import Recipe
from spacescale.tasks.linear import fit_linear
from spacescale.tasks.scores import main_score
from spacescale.tasks.task import Kind, Task
from spacescale.tuning.criterion import Criterion

RIDGE = 1e-3  # what is added to squares of features summed over sequences
PATIENCE = 10  # epochs without a lower validation loss
SLOWER_AFTER, SLOWER_BY, SLOWEST = 5, 0.2, 1e-6  # epochs without a lower loss; the rate then
LEAST_GAIN = 1e-4  # of the loss, for which the rate stays
ANSWERED_AT_ONCE = 256
PSI_EDGE = 1e-5  # how near to 0 and 1 shares may come in a Kullback-Leibler divergence


class Loss(Protocol):
    """What a head is held against."""

    def weight(self, targets: np.ndarray) -> float:
        """What these targets count together."""
        ...

    def total(self, outputs: Tensor, targets: np.ndarray) -> Tensor:
        """Sum of the losses of outputs (B, O)."""
        ...

    def answers(self, outputs: Tensor) -> np.ndarray:
        """Outputs → float32 (B, O) as tasks are scored."""
        ...


class SplicingLoss:
    """How far predicted shares of inclusion are from those measured, in nats.

    targets: (B, O, 2), differences of log-odds in each tissue from their mean, NaN where unknown,
    and that mean. Outputs are such differences.
    """

    def weight(self, targets: np.ndarray) -> float:
        """How many are known."""
        return float((~np.isnan(targets[..., 0])).sum())

    def total(self, outputs: Tensor, targets: np.ndarray) -> Tensor:
        """Sum of the Kullback-Leibler divergences of those known."""
        wanted = torch.from_numpy(targets).to(outputs.device)
        difference, mean = wanted.unbind(-1)
        known = ~difference.isnan()
        true = (difference + mean)[known].sigmoid().clamp(PSI_EDGE, 1 - PSI_EDGE)
        found = (outputs + mean)[known].sigmoid().clamp(PSI_EDGE, 1 - PSI_EDGE)
        losses = true * (true / found).log() + (1 - true) * ((1 - true) / (1 - found)).log()
        return losses.sum()

    def answers(self, outputs: Tensor) -> np.ndarray:
        """As they are."""
        return outputs.float().cpu().numpy()


def loss_of(task: Task) -> Loss:
    """The loss of a task: squared error, cross-entropy or that of splicing."""
    if task.splits["train"].offsets is not None:
        return SplicingLoss()
    return Criterion.of(task, weigh_classes=False)


def learnt_targets(task: Task, split: str) -> np.ndarray:
    """Targets as the loss takes them."""
    examples = task.splits[split]
    if examples.offsets is None:
        return examples.targets
    return np.stack([examples.targets, examples.offsets], axis=-1)


@dataclass(frozen=True)
class FittedHead:
    """A head with the weights whose validation loss was lowest.

    network: inputs (B, …) → outputs (B, O). answered: outputs → float32 (B, O) as tasks are scored.
    valid: the score by which methods are chosen. settings: for whoever reads the results.
    """

    network: nn.Module
    answered: Callable[[Tensor], np.ndarray]
    valid: float
    settings: dict[str, float]

    @torch.no_grad()
    def answers(self, inputs: Inputs, number: int) -> np.ndarray:
        """Float32 (N, O) of all of a split."""
        return np.concatenate([*map(self.answered, outputs_of(self.network, inputs, number))])


@torch.no_grad()
def outputs_of(network: nn.Module, inputs: Inputs, number: int) -> list[Tensor]:
    """Of all sequences of a split, in parts."""
    network.eval()
    device = next(network.parameters()).device
    rows = np.arange(number)
    parts = np.split(rows, range(ANSWERED_AT_ONCE, number, ANSWERED_AT_ONCE))
    return [network(inputs.batch(part).to(device)) for part in parts]


def fit_head(
    task: Task,
    inputs: Mapping[str, Inputs],
    recipe: Recipe,
    seed: int,
    metric: str,
    device: torch.device,
) -> FittedHead:
    """Train by Adam until the validation loss no longer falls; inputs: by split.

    The rate falls on plateaus. On a CPU a seed gives the same bits for the same number of threads.
    """
    loss, targets = loss_of(task), {s: learnt_targets(task, s) for s in ("train", "valid")}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = recipe.build(inputs["train"].shape, len(task.outputs)).to(device)
        optimizer = torch.optim.Adam(
            network.parameters(), recipe.lr, weight_decay=recipe.weight_decay
        )
        # Keras lowers the rate in the epoch that PyTorch would still wait for.
        plateaus = ReduceLROnPlateau(
            optimizer, "min", SLOWER_BY, SLOWER_AFTER - 1, LEAST_GAIN, "abs", min_lr=SLOWEST
        )
        best, lowest, best_epoch = copy.deepcopy(network.state_dict()), np.inf, 0
        epoch = 0
        while epoch < recipe.epochs and epoch - best_epoch < PATIENCE:
            epoch += 1
            _train(network, optimizer, inputs["train"], targets["train"], loss, recipe.batch_size)
            found = _mean_loss(network, inputs["valid"], targets["valid"], loss)
            plateaus.step(found)
            if found < lowest:
                best, lowest, best_epoch = copy.deepcopy(network.state_dict()), found, epoch
    network.load_state_dict(best)
    facts = {"best_epoch": best_epoch, "epochs_done": epoch, "rate": recipe.lr}
    fitted, valid = FittedHead(network, loss.answers, 0.0, facts), task.splits["valid"]
    found = fitted.answers(inputs["valid"], len(valid))
    return replace(fitted, valid=main_score(task.kind, valid.targets, found, metric))


def _train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    targets: np.ndarray,
    loss: Loss,
    batch_size: int,
) -> None:
    """One epoch; the last batch is not left with a single sequence, which has no deviation."""
    network.train()
    device = next(network.parameters()).device
    number = len(targets)
    for part in torch.randperm(number).tensor_split(max(1, -(-number // batch_size))):
        rows = part.numpy()
        weight = loss.weight(targets[rows])
        if weight == 0:
            continue
        optimizer.zero_grad()
        outputs = network(inputs.batch(rows).to(device))
        (loss.total(outputs, targets[rows]) / weight).backward()
        optimizer.step()


def _mean_loss(network: nn.Module, inputs: Inputs, targets: np.ndarray, loss: Loss) -> float:
    total = done = 0.0
    for outputs in outputs_of(network, inputs, len(targets)):
        total += float(loss.total(outputs, targets[int(done) : int(done) + len(outputs)]))
        done += len(outputs)
    return total / max(loss.weight(targets), 1e-12)


class LinearHead(nn.Module):
    """outputs = inputs · coefficients + intercept, float32."""

    def __init__(self, coefficients: np.ndarray, intercept: np.ndarray):
        super().__init__()
        self.coefficients = nn.Parameter(torch.from_numpy(coefficients).float())
        self.intercept = nn.Parameter(torch.from_numpy(intercept).float())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) → (B, O)."""
        return x @ self.coefficients + self.intercept


def _linear_answers(kind: Kind, outputs: Tensor) -> np.ndarray:
    """Values as they are; probabilities of classes or labels."""
    if kind == "values":
        return outputs.cpu().numpy()
    return (outputs.softmax(1) if kind == "classes" else outputs.sigmoid()).cpu().numpy()


def fit_ridge(
    task: Task, inputs: Mapping[str, Vectors], metric: str, device: torch.device
) -> FittedHead:
    """Ridge regression of values, with RIDGE; logistic regression of classes and labels.

    Of vectors (N, C) by split; nothing is chosen by validation and nothing depends on a seed.
    """
    train, valid = task.splits["train"], task.splits["valid"]
    penalty = RIDGE if task.kind == "values" else 1.0  # the latter as in scikit-learn
    # Features of neighbouring bins are so alike that float32 would not tell them apart.
    exact = {split: inputs[split].values.astype(np.float64) for split in ("train", "valid")}
    found = fit_linear(
        task.kind,
        len(task.outputs),
        (exact["train"], train.targets),
        (exact["valid"], valid.targets),
        metric,
        (penalty / len(train),),
    )
    network = LinearHead(found.model.coefficients, found.model.intercept).to(device)
    answered = partial(_linear_answers, task.kind)
    return FittedHead(network, answered, found.score, {"penalty": penalty})
