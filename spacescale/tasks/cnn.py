"""A plain convolutional network on one-hot bases: the strong baseline of every task.

No attention, no pretraining, no species. Shapes: B sequences of a batch, L bp of the longest of
them, P positions after pooling, D channels, C outputs.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from spacescale.genome import dna
from spacescale.tasks.baseline import Baseline, fitted_on
from spacescale.tasks.scores import main_metric, main_score
from spacescale.tasks.task import Examples, Kind, Task

CHANNELS = (64, 96, 96)
WIDTHS = (15, 11, 7)  # of the convolutions, over positions of 1, 2 and 4 bp
DROPOUT = 0.3
EPOCHS = 10
BATCH = 64
PREDICTED_AT_ONCE = 128
LEARNING_RATE = 3e-3  # at the peak of one cycle over all epochs
WEIGHT_DECAY = 1e-2


class SequenceCnn(nn.Module):
    """Outputs (B, C) of sequences of any lengths; how far they are padded changes nothing."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs
        self.blocks = nn.ModuleList(map(_Block, (4, *CHANNELS), CHANNELS, WIDTHS))
        width = CHANNELS[-1]
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(width, outputs),
        )

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Predict from codes, uint8 (B, L), N beyond the lengths, int64 (B,)."""
        one_hot = functional.one_hot(codes.long(), dna.N + 1)[..., : dna.N]
        x = one_hot.float().transpose(1, 2)  # (B, 4, L)
        for i, block in enumerate(self.blocks):
            if i:  # What is padded is 0 and nothing is less: it never is the maximum.
                x = functional.max_pool1d(x, 2, ceil_mode=True)  # (B, D, P)
                lengths = (lengths + 1) // 2
            x = block(x, lengths)
        return self.head(torch.cat([x.amax(-1), x.sum(-1) / lengths[:, None]], dim=1))


class _Block(nn.Module):
    """Convolution, BatchNorm and ReLU of what is not padding, (B, D, P); 0 where it is."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, width, padding="same", bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.conv(x)
        if bool((lengths == x.shape[-1]).all()):
            return functional.relu(self.norm(x))
        real = torch.arange(x.shape[-1], device=x.device) < lengths[:, None]  # (B, P)
        x = x.transpose(1, 2)
        normed = torch.zeros_like(x)
        normed[real] = functional.relu(self.norm(x[real]))  # moments without the padding
        return normed.transpose(1, 2)


def fit_cnn(
    task: Task,
    seed: int = 0,
    metric: str | None = None,
    epochs: int = EPOCHS,
    device: torch.device | str = "cpu",
    passes: int = 1,
) -> Baseline:
    """Train on sequences as they are, and on either strand of them; keep what validation prefers.

    passes: over the training sequences, in an epoch (`passes_of`).
    AdamW and one cycle of the rate; cross-entropy of classes and of known labels, squared error of
    known values in their training deviations. The state is kept after whose epoch the metric was
    best. On a CPU a seed gives the same bits for the same number of threads.
    """
    train, valid = fitted_on(task)
    by = main_metric(task.kind, metric)
    answers = _Answers.of(task.kind, train.targets)
    devices = [device] if torch.device(device).type == "cuda" else []
    fitted = []
    for strands, both in (("one strand", False), ("both strands", True)):
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)  # first weights, dropout, order and strands of sequences
            model = SequenceCnn(len(task.outputs)).to(device)
            network = _Network(model, answers, both)
            best, best_score, best_epoch = copy.deepcopy(model.state_dict()), -np.inf, 0
            done = _epochs(network, train, epochs, passes)
            label = f"{task.name}, CNN, {strands}"
            for epoch in tqdm(done, label, epochs, unit="epoch", disable=None, leave=False):
                score = main_score(task.kind, valid.targets, network.predict(valid), by)
                if score > best_score:
                    best, best_score, best_epoch = copy.deepcopy(model.state_dict()), score, epoch
        model.load_state_dict(best)
        settings = f"{strands}, epoch {best_epoch} of {epochs}, seed {seed}"
        fitted.append(Baseline("CNN", network.predict, best_score, settings))
    return max(fitted, key=lambda baseline: baseline.valid_score)


@dataclass(frozen=True)
class _Network:
    """A network with what it answers; of both strands it answers the mean."""

    model: SequenceCnn
    answers: _Answers
    both_strands: bool

    @torch.no_grad()
    def predict(self, examples: Examples) -> np.ndarray:
        """float64 (N, C). Sequences of like length go together, so that few are padded much."""
        self.model.eval()
        found = np.zeros((len(examples), self.model.outputs))
        order = np.argsort(examples.lengths, kind="stable")
        for first in range(0, len(order), PREDICTED_AT_ONCE):
            rows = order[first : first + PREDICTED_AT_ONCE].tolist()
            codes = [examples.codes[row] for row in rows]
            predictions = self._of_strand(codes)
            if self.both_strands:
                predictions += self._of_strand([dna.reverse_complement(one) for one in codes])
                predictions /= 2
            found[rows] = predictions.numpy()
        return found

    def _of_strand(self, codes: list[np.ndarray]) -> Tensor:
        return self.answers.predictions(self.outputs(codes))

    def outputs(self, codes: list[np.ndarray]) -> Tensor:
        """Of the network, float32 (B, C), for B codes (L,)."""
        device = next(self.model.parameters()).device
        padded, lengths = _padded(codes)
        return self.model(padded.to(device), lengths.to(device))


def passes_of(sequences: int, min_steps: int, epochs: int = EPOCHS) -> int:
    """Over so many sequences in an epoch, that all epochs are `min_steps` batches at least."""
    return max(1, math.ceil(min_steps / (epochs * math.ceil(sequences / BATCH))))


def _epochs(network: _Network, train: Examples, epochs: int, passes: int) -> Iterator[int]:
    """Train; after each epoch its number comes, from 1."""
    optimizer = torch.optim.AdamW(
        network.model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    steps = -(-len(train) // BATCH)
    cycle = OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * passes * steps)
    targets = network.answers.learnt(train.targets)
    for epoch in range(1, epochs + 1):
        network.model.train()
        orders = (torch.randperm(len(train)).tensor_split(steps) for _ in range(passes))
        for rows in itertools.chain.from_iterable(orders):
            codes = [train.codes[row] for row in rows.tolist()]
            if network.both_strands:
                turned = torch.randint(2, (len(codes),)).tolist()
                codes = [dna.reverse_complement(c) if t else c
                         for c, t in zip(codes, turned, strict=True)]  # fmt: skip
            outputs = network.outputs(codes)
            optimizer.zero_grad()
            network.answers.loss(outputs, targets[rows].to(outputs.device)).backward()
            optimizer.step()
            cycle.step()
        yield epoch


@dataclass(frozen=True)
class _Answers:
    """How outputs of the network and targets belong together; mean, deviation: float32 (C,)."""

    kind: Kind
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, kind: Kind, targets: np.ndarray) -> _Answers:
        """Standardise values by these, of training; what never differs keeps its size."""
        if kind != "values":
            return cls(kind, torch.zeros(1), torch.ones(1))
        known = torch.from_numpy(targets).double()
        number = (~known.isnan()).sum(0).clamp(min=1)
        mean = known.nansum(0) / number
        deviation = ((known - mean) ** 2).nansum(0).div(number).sqrt()
        deviation[deviation == 0] = 1
        return cls(kind, mean.float(), deviation.float())

    def learnt(self, targets: np.ndarray) -> Tensor:
        """Targets as `loss` takes them: int64 (N,) of classes, else float32 (N, C)."""
        given = torch.from_numpy(targets)
        return given if self.kind == "classes" else (given - self.mean) / self.deviation

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over what is known, of outputs (B, C)."""
        if self.kind == "classes":
            return functional.cross_entropy(outputs, targets)
        known = ~targets.isnan()
        of_known = {
            "labels": functional.binary_cross_entropy_with_logits,
            "values": functional.mse_loss,
        }[self.kind](outputs[known], targets[known], reduction="sum")
        return of_known / known.sum().clamp(min=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities of classes or labels, or values, float64 (B, C) on the CPU."""
        outputs = outputs.double().cpu()
        if self.kind == "classes":
            return outputs.softmax(1)
        return outputs.sigmoid() if self.kind == "labels" else outputs * self.deviation + self.mean


def _padded(codes: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Codes uint8 (B, L) with N behind the shorter ones, and lengths int64 (B,)."""
    sequences = [torch.from_numpy(one) for one in codes]
    lengths = torch.tensor([len(one) for one in sequences])
    return pad_sequence(sequences, batch_first=True, padding_value=dna.N), lengths
