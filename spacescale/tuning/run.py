"""Fine-tune on one task with several seeds, beside what it has to beat; goes on after a stop."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spacescale.errors import UserError
from spacescale.parallel import comm
from spacescale.planning.measure import memory_bytes, processes_sharing
from spacescale.tasks.baseline import Fit
from spacescale.tasks.cnn import fit_cnn, passes_of
from spacescale.tasks.scores import main_metric
from spacescale.tasks.simple_baselines import fit_kmers, fit_length_and_gc, fit_majority
from spacescale.tasks.task import Task
from spacescale.tuning.cost import longest_fitting
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
from spacescale.tuning.fractions import WHOLE, Part, part_of
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.pretrained import Pretrained
from spacescale.tuning.published import metric_of_suite
from spacescale.tuning.rows import Row, Rows, stem_of
from spacescale.tuning.sequence_model import SequenceModel
from spacescale.tuning.settings import Mode, Strands, TuningSettings, different_rates
from spacescale.tuning.starts import Start
from spacescale.tuning.tuned_model import save_tuned
from spacescale.tuning.vocabulary_choice import shares_line

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
class Plan:
    """What is trained on a task.

    lrs, strands: of which validation chooses one each, with the first seed, for each method by
    itself. beside: of BESIDE. fractions: percent of the training labels, ascending.
    """

    pretrained: Pretrained
    settings: TuningSettings
    lrs: tuple[float, ...]
    strands: tuple[Strands, ...]
    seeds: tuple[int, ...]
    beside: tuple[str, ...]
    fractions: tuple[float, ...] = (WHOLE,)


@dataclass(frozen=True)
class Method:
    """A model to train: which weights it starts with, and how."""

    name: str
    start: Start
    settings: TuningSettings

    def with_choice(self, lr: float, strands: Strands, seed: int) -> TuningSettings:
        """The settings of one training; the last layer learns as fast as the rest at least."""
        head_lr = max(lr, self.settings.head_lr)
        return replace(self.settings, lr=lr, head_lr=head_lr, strands=strands, seed=seed)

    def different(self, rates: Sequence[float]) -> tuple[float, ...]:
        """Those of the rates that train differently: where only the last layer learns, its own."""
        return different_rates(self.settings.mode, rates, self.settings.head_lr)


def methods(plan: Plan) -> list[Method]:
    """What is trained by gradient, that which is asked for first."""
    settings = plan.settings
    found = [Method(f"{plan.pretrained.name}, {settings.mode}", "pretrained", settings)]
    if "scratch" in plan.beside:
        live = replace(settings, mode="full", live_batchnorm=plan.pretrained.has_batchnorm)
        found.append(Method("scratch", "random", live))
    if "random frozen" in plan.beside:
        frozen = replace(settings, mode="head", live_batchnorm=False)
        found.append(Method("random frozen", "random", frozen))
    return found


class _Choices(NamedTuple):
    """Learning rates and strands to train with, and how validation judged those that were tried.

    The strands are tried with the rate that is best with the first of them.
    """

    rates: tuple[float, ...]
    strands: tuple[Strands, ...]
    tried: dict[str, float | None]
    tried_strands: dict[str, float]


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
        settings = self.plan.settings
        if settings.metric is None and (of_suite := metric_of_suite(self.task)):
            self.plan = replace(self.plan, settings=replace(settings, metric=of_suite))
        metric = main_metric(self.task.kind, self.plan.settings.metric)
        self.readings = self._readings()
        self.pretrained = self.readings[self.plan.fractions[-1], self.plan.seeds[0]]
        self.task = replace(self.task, notes=[*self.task.notes, *self._notes_of_readings()])
        self.ledger = Ledger(self.task, self.rows, metric)
        self._read: tuple[object, Readers] | None = None  # of which weights, and how

    def _readings(self) -> dict[tuple[float, int], Pretrained]:
        """What is fine-tuned, as the sequences of each share and seed decide how it reads them."""
        pretrained, seeds = self.plan.pretrained, self.plan.seeds
        found: dict[tuple[float, int], Pretrained] = {}
        for fraction in self.plan.fractions:
            drawn = seeds if fraction != WHOLE else seeds[:1]  # of each seed the whole is the same
            read = {s: pretrained.of_task(part_of(self.task, fraction, s).task) for s in drawn}
            found |= {(fraction, s): read.get(s, read[seeds[0]]) for s in seeds}
        return found

    def _notes_of_readings(self) -> list[str]:
        """What is said of how sequences are read; of shares that decide apart, which how."""
        notes = self.pretrained.notes
        if all(one.notes == notes for one in self.readings.values()):
            return notes
        chosen = {at: one.choices["vocabulary"] for at, one in self.readings.items()}
        return [shares_line(chosen)]

    @property
    def names(self) -> list[str]:
        """All methods, the model that was asked for first."""
        simple = [name for name in SIMPLE if name in self.plan.beside]
        first, *controls = [method.name for method in methods(self.plan)]
        return [first, *simple, *controls]

    def require_sense(self) -> None:
        """Raise UserError for settings that do not fit the task, or this machine."""
        settings, task, world = self.plan.settings, self.task, comm.world_size()
        parts = (part_of(task, f, s) for f in self.plan.fractions for s in self.plan.seeds)
        in_train = min(len(part.rows) for part in parts)
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
        settings, pretrained = self.plan.settings, self.pretrained
        kinds = {str(one.choices.get("vocabulary")): one for one in self.readings.values()}
        modes: set[Mode] = {method.settings.mode for method in methods(self.plan)}
        place, longest = self.task.longest()
        available = memory_bytes(self.device) / processes_sharing(self.device)
        world = comm.world_size()

        def needed(batch: int, length: int = longest) -> float:
            sizes = (length, batch, settings.lora_rank, world)
            on_gpu = self.device.type == "cuda"
            costs = (one.cost(m, *sizes, on_gpu) for one in kinds.values() for m in modes)
            return max(cost.total for cost in costs)

        batch = settings.batch_size
        if needed(batch) <= available:
            return
        while batch > world and needed(batch) > available:
            batch = max(world, batch // 2)
        cure = f"--batch {batch}"
        if needed(batch) > available:
            fits = longest_fitting(
                lambda n: needed(batch, n), available, pretrained.bin_size, longest
            )
            cure = (
                f"sequences of {fits:,} bp at most with --batch {batch}, or --mode lora or head, "
                "and leave scratch out of --beside"
            )
        raise UserError(
            f"{place}: {settings.batch_size} sequences of {longest:,} bp a step need "
            f"{needed(settings.batch_size) / 2**30:.1f} GiB on each of {world} processes at least; "
            f"there are {available / 2**30:.1f} for each. Take {cure}"
        )

    def run(self) -> None:
        """Train whatever is not there yet."""
        comm.on_all(self.require_sense)
        for name in SIMPLE:
            if name in self.plan.beside:
                for fraction in self.plan.fractions:
                    # What has no seed of its own still learns from the sequences of one.
                    drawn = name == "CNN" or fraction != WHOLE
                    for seed in self.plan.seeds if drawn else self.plan.seeds[:1]:
                        comm.on_main(lambda of=(name, seed, fraction): self._fit_simple(*of))
        for method in methods(self.plan):
            self._fit_all(method)

    def _fit_simple(self, name: str, seed: int, fraction: float) -> None:
        part = part_of(self.task, fraction, seed)
        facts = {"method": name, "metric": self.ledger.metric} | part.facts
        passes = passes_of(len(part.rows), self.plan.settings.min_steps) if name == "CNN" else 1
        key = self.ledger.key(facts | ({"passes": passes} if passes > 1 else {}))
        if self.rows.find(name, seed, key):
            return
        began = time.perf_counter()
        if name == "CNN":
            baseline = fit_cnn(
                part.task, seed, self.ledger.metric, device=self.device, passes=passes
            )
        else:
            baseline = SIMPLE[name](part.task, seed, self.ledger.metric)
        seconds = time.perf_counter() - began
        found = baseline.predict(self.task.splits["test"])
        facts = {"chosen": baseline.settings}
        self.ledger.add(name, seed, key, found, seconds, facts, part=part)

    def _chooser(self, fraction: float, seed: int) -> int:
        """The first seed whose share is read as that of this one: rates and strands are its."""
        facts = self.readings[fraction, seed].facts
        return next(s for s in self.plan.seeds if self.readings[fraction, s].facts == facts)

    def _facts(self, method: Method, fraction: float, seed: int) -> dict[str, Any]:
        """What a row of a method is made with."""
        plan, pretrained = self.plan, self.readings[fraction, seed]
        of_method = asdict(method)
        # Rows without it hold from before it was a setting, but of a species that is learnt.
        species_lr = of_method["settings"].pop("species_lr")
        learnt = pretrained.teaches and method.start == "pretrained"
        return {
            **of_method,
            **({"species_lr": species_lr} if learnt else {}),
            "weights": pretrained.digest if method.start == "pretrained" else "",
            **pretrained.facts,
            "rates": plan.lrs,
            "strands": plan.strands,
            "chosen with": self._chooser(fraction, seed),
            "deepspeed": {name: self.deepspeed_config.get(name) for name in DECIDES_NUMBERS},
        }

    def _fit_all(self, method: Method) -> None:
        """Train with every seed and fraction, each with the choices of its `_chooser`."""
        plan = self.plan
        open_choices = _Choices(method.different(plan.lrs), plan.strands, {}, {})
        choices: dict[tuple[float, int], _Choices] = {}
        for seed, fraction in itertools.product(plan.seeds, plan.fractions):
            part = part_of(self.task, fraction, seed)
            key = self.ledger.key(self._facts(method, fraction, seed) | part.facts)
            row = comm.on_main(lambda of=(seed, key): self._find(method, *of))
            at = fraction, self._chooser(fraction, seed)
            if row is None:
                known = choices.get(at, open_choices)
                choices[at] = self._train(method, part, seed, key, known)
            else:
                made: dict[str, Any] = row.settings
                strands: Strands = made["strands"]
                choices[at] = _Choices(
                    (made["rate"],), (strands,), made["tried"], made["tried_strands"]
                )

    def _train(
        self, method: Method, part: Part, seed: int, key: str, choices: _Choices
    ) -> _Choices:
        """Train with each rate, then with other strands, and keep the best; returns the choice."""
        began = time.perf_counter()
        first, *others = choices.strands
        fits = self._fit_each(method, part, [(rate, first) for rate in choices.rates], seed)
        rate, _ = max(fits, key=lambda one: fits[one].score)
        with suppress(Diverged):  # which is said; the first strands did not
            fits |= self._fit_each(method, part, [(rate, strands) for strands in others], seed)
        _, strands = max((key for key in fits if key[0] == rate), key=lambda one: fits[one].score)
        seconds = time.perf_counter() - began
        tried, tried_strands = choices.tried, choices.tried_strands
        if len(choices.rates) > 1:
            scores = {at: one.score for (at, read), one in fits.items() if read == first}
            tried = {f"{at:g}": scores.get(at) for at in choices.rates}
        if others:
            tried_strands = {read: one.score for (at, read), one in fits.items() if at == rate}
        chosen = _Choices((rate,), (strands,), tried, tried_strands)
        self._keep(method, part, seed, key, chosen, fits[rate, strands], seconds)
        return chosen

    def _find(self, method: Method, seed: int, key: str) -> Row | None:
        """The row that is there, with the model that belongs to it."""
        row = self.rows.find(method.name, seed, key)
        if row is not None and method.start == "pretrained":
            return row if self._weights(row.stem).is_dir() else None
        return row

    def _weights(self, stem: str) -> Path:
        return self.rows.folder / "weights" / stem

    def _fit_each(
        self, method: Method, part: Part, choices: Sequence[tuple[float, Strands]], seed: int
    ) -> dict[tuple[float, Strands], _Trained]:
        """With each rate and strands, but those that diverge; UserError where all do."""
        fits, last = {}, None
        for rate, strands in choices:
            settings = method.with_choice(rate, strands, seed)
            try:
                fits[rate, strands] = self._fit(method.start, part, settings)
            except Diverged as error:
                logger.warning("%s: %s", method.name, error)
                last = error
        if last is not None and not fits:
            raise last
        return fits

    def _fit(self, start: Start, part: Part, settings: TuningSettings) -> _Trained:
        task, pretrained = self.task, self.readings[part.fraction, settings.seed]
        trunk = pretrained.trunk(start, settings)
        torch.manual_seed(settings.seed)
        model = SequenceModel(trunk, len(task.outputs))
        if start == "random" and settings.mode == "head":
            trunk.measure_statistics(reader_of(task, "train", model, False))
        readers = dict(self._readers(model, start, settings, pretrained.facts))
        readers["train"] = readers["train"].take(part.rows)
        torch.manual_seed(settings.seed + 1 + comm.rank())  # dropout differs between ranks
        fitted = fit(model, part.task, readers, settings, self.deepspeed_config, self.device)
        return _Trained(model, fitted, readers)

    def _readers(
        self, model: SequenceModel, start: Start, settings: TuningSettings, facts: dict[str, Any]
    ) -> Readers:
        """How whole splits are read; features of the same weights are computed but once."""
        seed = settings.seed if start == "random" else None
        weights = (start, settings.mode, settings.strands, seed, facts)
        if self._read is None or self._read[0] != weights:
            self._read = weights, readers_of(self.task, model, settings, self.device)
        return self._read[1]

    def _keep(
        self,
        method: Method,
        part: Part,
        seed: int,
        key: str,
        choices: _Choices,
        trained: _Trained,
        seconds: float,
    ) -> None:
        (rate,), (strands,) = choices.rates, choices.strands
        settings, model = method.with_choice(rate, strands, seed), trained.model
        pretrained = self.readings[part.fraction, seed]
        fitted = trained.fitted
        criterion = Criterion.of(part.task, settings.class_weights)
        reader = trained.readers["test"]
        found = answers(model, reader, criterion, settings.both_strands, self.device)
        facts = {
            **asdict(settings),
            **pretrained.choices,
            **part.facts,
            "rate": rate,
            "tried": choices.tried,
            "tried_strands": choices.tried_strands,
            "valid": fitted.best.score,
            "best_epoch": fitted.best.number,
            "epochs_done": len(fitted.epochs),
            "trained_parameters": fitted.trained_parameters,
        }

        def keep() -> None:
            stem = stem_of(method.name, seed, part.fraction)
            self.rows.drop(stem)
            if method.start == "pretrained":
                save_tuned(
                    self._weights(stem),
                    model,
                    criterion,
                    reader.encoding,
                    self.task,
                    settings.both_strands,
                    facts | {"weights": pretrained.digest},
                )
            self.ledger.add(method.name, seed, key, found, seconds, facts, part=part)

        comm.on_main(keep)
