"""Fine-tune on one task with several seeds, beside what it has to beat; goes on after a stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spacescale.errors import UserError
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.planning.measure import memory_bytes
from spacescale.tasks.baseline import Fit
from spacescale.tasks.cnn import fit_cnn
from spacescale.tasks.scores import main_metric
from spacescale.tasks.simple_baselines import fit_kmers, fit_length_and_gc, fit_majority
from spacescale.tasks.task import Task
from spacescale.tuning.cost import longest_fitting, tuning_cost
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.fit import (
    Diverged,
    Fitted,
    Readers,
    answers,
    fit,
    reader_of,
    readers_of,
)
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.rows import Row, Rows, stem_of
from spacescale.tuning.sequence_model import Mode, SequenceModel
from spacescale.tuning.settings import TuningSettings
from spacescale.tuning.starts import Start, measure_batchnorm, starting_space
from spacescale.tuning.tuned_model import save_tuned

SIMPLE: dict[str, Fit] = {
    "majority": fit_majority,
    "length and GC": fit_length_and_gc,
    "k-mers": fit_kmers,
    "CNN": fit_cnn,
}
CONTROLS = ("scratch", "random frozen")
BESIDE = (*SIMPLE, *CONTROLS)
DECIDES_NUMBERS = ("gradient_clipping", "torch_autocast")  # of DeepSpeed's configuration

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """What is fine-tuned.

    name: as results call it; digest: of its weights. like: see `starting_space`.
    """

    name: str
    space: Space
    digest: str
    species: str
    like: str | None


@dataclass(frozen=True)
class Plan:
    """What is trained on a task.

    lrs: rates of which validation chooses one, with the first seed, for each method by itself.
    beside: of BESIDE.
    """

    pretrained: Pretrained
    settings: TuningSettings
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    beside: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """A model to train: which weights it starts with, and how."""

    name: str
    start: Start
    settings: TuningSettings

    def with_rate(self, lr: float, seed: int) -> TuningSettings:
        """The settings of one training; the last layer learns as fast as the rest at least."""
        return replace(self.settings, lr=lr, head_lr=max(lr, self.settings.head_lr), seed=seed)


def methods(plan: Plan) -> list[Method]:
    """What is trained by gradient, that which is asked for first."""
    settings = plan.settings
    found = [Method(f"{plan.pretrained.name}, {settings.mode}", "pretrained", settings)]
    if "scratch" in plan.beside:
        live = replace(settings, mode="full", live_batchnorm=True)
        found.append(Method("scratch", "random", live))
    if "random frozen" in plan.beside:
        frozen = replace(settings, mode="head", live_batchnorm=False)
        found.append(Method("random frozen", "random", frozen))
    return found


@dataclass(frozen=True)
class _Trained:
    """One training; readers: of the sequences as it read them."""

    model: SequenceModel
    fitted: Fitted
    readers: Readers

    @property
    def score(self) -> float:
        """Of validation."""
        return self.fitted.best.score


@dataclass
class TaskRun:
    """The rows of one task as they come."""

    task: Task
    plan: Plan
    rows: Rows
    deepspeed_config: dict[str, Any]
    device: torch.device

    def __post_init__(self) -> None:
        metric = main_metric(self.task.kind, self.plan.settings.metric)
        self.ledger = Ledger(self.task, self.rows, metric)
        self._read: tuple[object, Readers] | None = None  # of which weights, and how

    @property
    def names(self) -> list[str]:
        """All methods, the model that was asked for first."""
        simple = [name for name in SIMPLE if name in self.plan.beside]
        first, *controls = [method.name for method in methods(self.plan)]
        return [first, *simple, *controls]

    def require_sense(self) -> None:
        """Raise UserError for settings that do not fit the task, or this machine."""
        settings, task, world = self.plan.settings, self.task, comm.world_size()
        in_train = len(task.splits["train"])
        for what, number in (("a batch", settings.batch_size), ("the training split", in_train)):
            if number < world:
                raise UserError(
                    f"{task.name}: {what} has {number} sequences; {world} processes need as many"
                )
        if settings.class_weights and task.kind != "classes":
            raise UserError(f"{task.name}: class weights need classes; its targets are {task.kind}")
        shortest = min(int(examples.lengths.min()) for examples in task.splits.values())
        if settings.shift_bp >= shortest:
            raise UserError(
                f"{task.name}: moved by {settings.shift_bp} bp, nothing is left of a sequence of "
                f"{shortest} bp"
            )
        self.require_memory()

    def require_memory(self) -> None:
        """Raise UserError where the longest sequences of a batch need more memory than is there."""
        settings, space = self.plan.settings, self.plan.pretrained.space
        modes: set[Mode] = {method.settings.mode for method in methods(self.plan)}
        longest = max(int(examples.lengths.max()) for examples in self.task.splits.values())
        available, world = memory_bytes(self.device), comm.world_size()

        def needed(batch: int, length: int = longest) -> float:
            sizes = (length, batch, settings.lora_rank, world)
            on_gpu = self.device.type == "cuda"
            costs = (tuning_cost(space.config, mode, *sizes, "fp32", on_gpu) for mode in modes)
            return max(cost.total for cost in costs)

        batch = settings.batch_size
        if needed(batch) <= available:
            return
        while batch > world and needed(batch) > available:
            batch = max(world, batch // 2)
        cure = f"--batch {batch}"
        if needed(batch) > available:
            fits = longest_fitting(
                lambda n: needed(batch, n), available, space.config.bin_size, longest
            )
            cure = (
                f"sequences of {fits:,} bp at most with --batch {batch}, or --mode lora or head, "
                "and leave scratch out of --beside"
            )
        raise UserError(
            f"{self.task.path}: {settings.batch_size} sequences of {longest:,} bp a step need "
            f"{needed(settings.batch_size) / 2**30:.1f} GiB on each of {world} processes at least; "
            f"there are {available / 2**30:.1f}. Take {cure}"
        )

    def run(self) -> None:
        """Train whatever is not there yet."""
        comm.on_all(self.require_sense)
        for name in SIMPLE:
            if name in self.plan.beside:
                for seed in self.plan.seeds if name == "CNN" else self.plan.seeds[:1]:
                    comm.on_main(lambda name=name, seed=seed: self._fit_simple(name, seed))
        for method in methods(self.plan):
            self._fit_all(method)

    def _fit_simple(self, name: str, seed: int) -> None:
        key = self.ledger.key({"method": name, "metric": self.ledger.metric})
        if self.rows.find(name, seed, key):
            return
        began = time.perf_counter()
        if name == "CNN":
            baseline = fit_cnn(self.task, seed, self.ledger.metric, device=self.device)
        else:
            baseline = SIMPLE[name](self.task, seed, self.ledger.metric)
        seconds = time.perf_counter() - began
        found = baseline.predict(self.task.splits["test"])
        self.ledger.add(name, seed, key, found, seconds, {"chosen": baseline.settings})

    def _fit_all(self, method: Method) -> None:
        """Train with every seed; the first one chooses the rate by validation."""
        first, plan = self.plan.seeds[0], self.plan
        pretrained = plan.pretrained
        facts = asdict(method) | {
            "weights": pretrained.digest if method.start == "pretrained" else "",
            "model": pretrained.space.config.model_dump(mode="json"),
            "species": (pretrained.species, pretrained.like),
            "rates": plan.lrs,
            "chosen with": first,
            "deepspeed": {name: self.deepspeed_config.get(name) for name in DECIDES_NUMBERS},
        }
        key = self.ledger.key(facts)
        rates, tried = plan.lrs, {}
        for seed in plan.seeds:
            row = comm.on_main(lambda seed=seed: self._find(method, seed, key))
            if row is not None:
                rates, tried = (row.settings["rate"],), row.settings["tried"]
                continue
            began = time.perf_counter()
            fits = self._fit_rates(method, rates, seed)
            if len(rates) > 1:
                tried = {f"{r:g}": fits[r].score if r in fits else None for r in rates}
            best = max(fits, key=lambda rate: fits[rate].score)
            rates = (best,)
            seconds = time.perf_counter() - began
            self._keep(method, seed, key, best, fits[best], seconds, tried)

    def _find(self, method: Method, seed: int, key: str) -> Row | None:
        """The row that is there, with the model that belongs to it."""
        row = self.rows.find(method.name, seed, key)
        if row is not None and method.start == "pretrained":
            return row if self._weights(row.stem).is_dir() else None
        return row

    def _weights(self, stem: str) -> Path:
        return self.rows.folder / "weights" / stem

    def _fit_rates(
        self, method: Method, rates: Sequence[float], seed: int
    ) -> dict[float, _Trained]:
        """With each rate, but those that diverge; UserError where all do."""
        fits, last = {}, None
        for rate in rates:
            try:
                fits[rate] = self._fit(method.start, method.with_rate(rate, seed))
            except Diverged as error:
                logger.warning("%s: %s", method.name, error)
                last = error
        if last is not None and not fits:
            raise last
        return fits

    def _fit(self, start: Start, settings: TuningSettings) -> _Trained:
        pretrained, task = self.plan.pretrained, self.task
        space = starting_space(
            pretrained.space, pretrained.species, pretrained.like, start, settings.seed
        )
        torch.manual_seed(settings.seed)
        model = SequenceModel(
            space, pretrained.species, len(task.outputs), settings.layer, settings.pool
        )
        if start == "random" and settings.mode == "head":
            measure_batchnorm(space, pretrained.species, reader_of(task, "train", model, False))
        readers = self._readers(model, start, settings)
        torch.manual_seed(settings.seed + 1 + comm.rank())  # dropout differs between ranks
        fitted = fit(model, task, readers, settings, self.deepspeed_config, self.device)
        return _Trained(model, fitted, readers)

    def _readers(self, model: SequenceModel, start: Start, settings: TuningSettings) -> Readers:
        """How splits are read; features of the same weights are computed for the first training."""
        weights = (start, settings.mode, settings.seed if start == "random" else None)
        if self._read is None or self._read[0] != weights:
            self._read = weights, readers_of(self.task, model, settings, self.device)
        return self._read[1]

    def _keep(
        self,
        method: Method,
        seed: int,
        key: str,
        rate: float,
        trained: _Trained,
        seconds: float,
        tried: dict[str, float | None],
    ) -> None:
        settings, model, fitted = method.with_rate(rate, seed), trained.model, trained.fitted
        criterion = Criterion.of(self.task, settings.class_weights)
        reader = trained.readers["test"]
        found = answers(model, reader, criterion, settings.both_strands, self.device)
        facts = {
            **asdict(settings),
            "rate": rate,
            "tried": tried,
            "valid": fitted.best.score,
            "best_epoch": fitted.best.number,
            "epochs_done": len(fitted.epochs),
            "trained_parameters": fitted.trained_parameters,
        }

        def keep() -> None:
            if method.start == "pretrained":
                save_tuned(
                    self._weights(stem_of(method.name, seed)),
                    model,
                    criterion,
                    reader,
                    self.task,
                    settings.both_strands,
                    facts | {"weights": self.plan.pretrained.digest},
                )
            self.ledger.add(method.name, seed, key, found, seconds, facts)

        comm.on_main(keep)
