"""Train a `SequenceModel` on a task, and say what it answers.

DeepSpeed's engine trains it, in as many processes as were started: each takes its share of a batch,
and the gradient is that of the whole batch. Shapes: B sequences, C outputs.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spacescale.config import OptimConfig
from spacescale.errors import UserError
from spacescale.parallel import comm
from spacescale.parallel.engine import Engine, build_engine, set_learning_rate
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.planning.measure import memory_bytes
from spacescale.tasks.scores import main_metric, main_score
from spacescale.tasks.task import Task
from spacescale.train.schedule import learning_rate
from spacescale.tuning.batches import Batch, FeatureReader, Reader, TrainingOrder
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.sequence_model import SequenceModel, choose_trained
from spacescale.tuning.settings import TuningSettings

KEPT_SHARE = 0.25  # of a machine's memory that features may take
Readers = Mapping[str, Reader]
logger = logging.getLogger(__name__)


class Diverged(UserError):
    """Raised where numbers are not finite any more: another learning rate may do."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: a pass over the training sequences, or some where they are few."""

    number: int
    loss: float  # mean over the steps
    score: float  # of the validation sequences
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A model in the state that was best on validation, and how it came there."""

    epochs: list[Epoch]
    best: Epoch
    metric: str
    trained_parameters: int


def fit(
    model: SequenceModel,
    task: Task,
    readers: Readers,
    settings: TuningSettings,
    deepspeed_config: dict[str, Any],
    device: torch.device,
) -> Fitted:
    """Train a model, on every process alike; it ends in the state that was best on validation.

    A batch, and the training split, hold as many sequences as there are processes, at least.
    readers: as of `readers_of`. deepspeed_config: resolved, of ZeRO stage 1 or 2. Raises UserError
    for a loss that is not finite, or an unknown metric.
    """
    metric = main_metric(task.kind, settings.metric)
    choose_trained(model, settings.mode, settings.lora_rank, settings.live_batchnorm)
    synchronise_batchnorm(model)
    order = TrainingOrder(
        readers["train"],
        settings.batch_size,
        settings.seed,
        settings.shift_bp,
        settings.both_strands,
        math.ceil(settings.min_steps / settings.epochs),
    )
    steps = order.steps * settings.epochs
    of_species = (settings.species_lr or settings.head_lr) / settings.head_lr
    optim = OptimConfig(
        lr=settings.head_lr,
        lr_factors={  # the first that fits
            **dict.fromkeys(model.taught, of_species),
            model.trunk.name: settings.lr / settings.head_lr,
        },
        weight_decay=settings.weight_decay,
        max_steps=steps,
        warmup_steps=round(settings.warmup * steps),
    )
    # Rows of other species get no gradient; decay is not to move them either.
    engine = build_engine(model.to(device), optim, deepspeed_config, model.taught)
    try:
        return _Fit(model, task, readers, settings, metric, order, optim, engine, device).run()
    finally:
        engine.destroy()


@dataclass
class _Fit:
    model: SequenceModel
    task: Task
    readers: Readers
    settings: TuningSettings
    metric: str
    order: TrainingOrder
    optim: OptimConfig
    engine: Engine
    device: torch.device

    def run(self) -> Fitted:
        criterion = Criterion.of(self.task, self.settings.class_weights)
        epochs: list[Epoch] = []
        best, kept = None, {}
        with tqdm(
            total=self.settings.epochs * self.order.steps,
            unit="step",
            desc=self.task.name,
            disable=None if comm.is_main() else True,
            leave=False,
        ) as bar:
            for number in range(self.settings.epochs):
                began = time.perf_counter()
                loss = self._epoch(number, criterion, bar)
                value = self._validate(number, criterion)
                epochs.append(Epoch(number + 1, loss, value, time.perf_counter() - began))
                bar.set_postfix({"loss": f"{loss:.3f}", self.metric: f"{value:.3f}"})
                if best is None or value > best.score:
                    best, kept = epochs[-1], self._learnt()
                if self.settings.patience and number + 1 - best.number >= self.settings.patience:
                    break
        assert best is not None
        self.model.load_state_dict(kept, strict=False)
        return Fitted(epochs, best, self.metric, self.model.num_trained)

    def _epoch(self, number: int, criterion: Criterion, bar: tqdm) -> float:
        targets = self.task.splits["train"].targets
        self.engine.train()
        losses = []
        for i, batch in enumerate(self.order.epoch(number, comm.rank(), comm.world_size())):
            set_learning_rate(self.engine, learning_rate(number * self.order.steps + i, self.optim))
            outputs = self.engine([group.to(self.device) for group in batch.groups])
            # The engine takes the mean over processes; this sum is to be over all of the batch.
            whole = criterion.weight(targets[batch.of_all])
            loss = criterion.total(outputs, targets[batch.rows]) / max(whole, 1e-9)
            self.engine.backward(loss * comm.world_size())
            self.engine.step()
            losses.append(loss.detach())
            bar.update()
        mean = float(comm.add_over_ranks(torch.stack(losses).sum())) / len(losses)
        if not math.isfinite(mean):
            raise self._diverged(number, "the loss is")
        return mean

    def _diverged(self, number: int, what: str) -> Diverged:
        settings = self.settings
        rates = f"{settings.lr:g} and {settings.head_lr:g}"
        if self.model.taught:
            rates += f", of the species {settings.species_lr or settings.head_lr:g}"
        return Diverged(
            f"{self.task.name}, epoch {number + 1}: {what} not finite; take a lower learning rate "
            f"than {rates}"
        )

    def _validate(self, number: int, criterion: Criterion) -> float:
        examples, reader = self.task.splits["valid"], self.readers["valid"]
        found = answers(self.model, reader, criterion, self.settings.both_strands, self.device)
        if not np.isfinite(found).all():
            raise self._diverged(number, "answers are")
        return main_score(self.task.kind, examples.targets, found, self.metric)

    def _learnt(self) -> dict[str, Tensor]:
        """All that training may have changed, on the CPU."""
        names = {name for name, p in self.model.named_parameters() if p.requires_grad}
        names |= {name for name, _ in self.model.named_buffers()}
        state = self.model.state_dict()
        return {n: v.detach().cpu().clone() for n, v in state.items() if n in names}


def reader_of(task: Task, split: str, model: SequenceModel, live_batchnorm: bool) -> Reader:
    """How the sequences of a split are read, which is the same for all splits of a task.

    live_batchnorm: see `Trunk.encoding`.
    """
    lengths = {length for part in task.splits.values() for length in set(part.lengths.tolist())}
    return Reader(task.splits[split], model.trunk.encoding(lengths, live_batchnorm))


def readers_of(
    task: Task, model: SequenceModel, settings: TuningSettings, device: torch.device
) -> Readers:
    """How the sequences of each split are read, on every process alike.

    As their features, which are computed here, where these stay as they are and memory holds them.
    """
    readers = {split: reader_of(task, split, model, settings.live_batchnorm)
               for split in task.splits}  # fmt: skip
    if not settings.features_stay:
        return readers
    both = settings.both_strands
    sequences = sum(len(examples) * (1 + both) for examples in task.splits.values())
    needed = sequences * model.trunk.width * 4 * comm.world_size()
    if not comm.on_main(lambda: needed < KEPT_SHARE * memory_bytes(torch.device("cpu"))):
        logger.info("%s: features take %.1f GiB; they are computed again in every epoch",
                    task.name, needed / 2**30)  # fmt: skip
        return readers
    model.to(device)
    return {split: _with_features(model, reader, both, device)
            for split, reader in readers.items()}  # fmt: skip


@torch.no_grad()
def _with_features(
    model: SequenceModel, reader: Reader, both_strands: bool, device: torch.device
) -> FeatureReader:
    model.eval()

    def features(batch: Batch) -> np.ndarray:
        found = [model.features(group.to(device)) for group in batch.groups]
        return torch.cat(found).float().cpu().numpy()

    kept = {False: torch.from_numpy(_of_all(reader, features))}
    if both_strands:
        found = _of_all(reader, lambda batch: features(_turned(reader, batch)))
        kept[True] = torch.from_numpy(found)
    return FeatureReader(reader.examples, reader.encoding, kept)


def _turned(reader: Reader, batch: Batch) -> Batch:
    """The reverse complements of a batch, in the same order."""
    return reader.batch(batch.rows, changes=dict.fromkeys(batch.rows.tolist(), (0, True)))


def _of_all(reader: Reader, work: Callable[[Batch], np.ndarray]) -> np.ndarray:
    """What `work` makes of batches (B, …), of all sequences (N, …), on every process."""
    found = [(b.rows, work(b)) for b in reader.in_order(comm.rank(), comm.world_size())]
    parts = list(itertools.chain.from_iterable(comm.gather(found)))
    rows, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    whole = np.empty_like(values)
    whole[rows] = values
    return whole


@torch.no_grad()
def answers(
    model: SequenceModel,
    reader: Reader,
    criterion: Criterion,
    both_strands: bool,
    device: torch.device,
) -> np.ndarray:
    """What a model answers to all sequences, float32 (N, C), on every process."""
    model.eval()

    def answered(batch: Batch) -> np.ndarray:
        outputs = _outputs(model, batch.groups, device)
        if both_strands:
            outputs = (outputs + _outputs(model, _turned(reader, batch).groups, device)) / 2
        return criterion.answers(outputs)

    return _of_all(reader, answered)


def _outputs(model: SequenceModel, groups: Sequence[Tensor], device: torch.device) -> Tensor:
    return model([group.to(device) for group in groups])
