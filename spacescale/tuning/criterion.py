"""What a task's answers are held against, and how outputs become answers.

Shapes: B sequences, C outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spacescale.tasks.task import Kind, Task


@dataclass(frozen=True)
class Criterion:
    """The loss of a task, and from which outputs its answers come.

    classes: cross-entropy, each class with its weight (C,). labels: binary cross-entropy of those
    known. values: squared error of those known, in deviations `spread` (C,) of the training
    sequences about their means `centre` (C,).
    """

    kind: Kind
    class_weights: Tensor
    centre: Tensor
    spread: Tensor

    @classmethod
    def of(cls, task: Task, weigh_classes: bool) -> Criterion:
        """As the training sequences say; with weigh_classes rare classes count like frequent."""
        targets, count = task.splits["train"].targets, len(task.outputs)
        weights, centre, spread = np.ones(count), np.zeros(count), np.ones(count)
        if task.kind == "classes" and weigh_classes:
            seen = np.maximum(np.bincount(targets, minlength=count), 1)
            weights = seen.sum() / (count * seen)
        if task.kind == "values":
            centre, spread = np.nanmean(targets, axis=0), np.nanstd(targets, axis=0)
            spread = np.where(spread > 0, spread, 1)
        return cls(task.kind, *(torch.from_numpy(a).float() for a in (weights, centre, spread)))

    def weight(self, targets: np.ndarray) -> float:
        """What the losses of these targets count together."""
        if self.kind != "classes":
            return float((~np.isnan(targets)).sum())
        return float(self.class_weights[torch.from_numpy(targets)].sum())

    def total(self, outputs: Tensor, targets: np.ndarray) -> Tensor:
        """Sum of the losses of a batch, each with its weight."""
        wanted = torch.from_numpy(targets).to(outputs.device)
        if self.kind == "classes":
            return F.cross_entropy(
                outputs, wanted, self.class_weights.to(outputs.device), reduction="sum"
            )
        known = ~wanted.isnan()
        if self.kind == "labels":
            wanted = torch.where(known, wanted, 0.5)
            losses = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        else:
            centred = (wanted - self.centre.to(outputs.device)) / self.spread.to(outputs.device)
            losses = (outputs - torch.where(known, centred, 0)).square()
        return (losses * known).sum()

    def answers(self, outputs: Tensor) -> np.ndarray:
        """Outputs → probabilities of classes or labels, or values in the task's units; float32."""
        outputs = outputs.float().cpu()
        if self.kind == "classes":
            return outputs.softmax(-1).numpy()
        if self.kind == "labels":
            return outputs.sigmoid().numpy()
        return (outputs * self.spread + self.centre).numpy()
