"""Probe one task: heads on frozen features, beside what they have to beat; goes on after a stop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal, get_args

import torch

from spacescale.errors import UserError
from spacescale.files import make_folder
from spacescale.genome.open_genome import OpenGenome
from spacescale.planning.measure import memory_bytes
from spacescale.probing.features import (
    Inputs,
    OneHot,
    PositionFeatures,
    Trunk,
    Vectors,
    dinucleotides,
    write_features,
)
from spacescale.probing.feeding import Feed, Feeder
from spacescale.probing.fit import RIDGE, FittedHead, fit_head, fit_ridge
from spacescale.probing.heads import Recipe, cnn, mlp, residual_bind
from spacescale.tasks.duplicates import find_duplicates
from spacescale.tasks.scores import main_metric
from spacescale.tasks.task import Assay, Task
from spacescale.tuning.batches import Reader
from spacescale.tuning.cost import longest_fitting, tuning_cost
from spacescale.tuning.encoding import Bases
from spacescale.tuning.ledger import Ledger
from spacescale.tuning.pretrained import PretrainedSpace
from spacescale.tuning.rows import Rows
from spacescale.tuning.starts import Start, measure_batchnorm, starting_space

Head = Literal["ridge", "mlp", "cnn"]
HEADS: tuple[Head, ...] = get_args(Head)
ON_BASES = ("one-hot, cnn", "one-hot, ResidualBind", "dinucleotides, mlp")
RANDOM = "random weights"
BESIDE = (*ON_BASES, RANDOM)


@dataclass(frozen=True)
class ProbePlan:
    """What is probed, and how.

    head_of: whose networks, None for those of the task's assay or, where none is known, of its
    kind. window: bp that fed sequences are filled up to. draws: of flanks. beside: of BESIDE.
    metric: None for the task's own. genome: that sequences are fed in, where one of the feeds asks
    for it.
    """

    pretrained: PretrainedSpace
    layers: tuple[str, ...]
    feeds: tuple[Feed, ...]
    heads: tuple[Head, ...]
    seeds: tuple[int, ...]
    head_of: Assay | None
    window: int
    draws: int
    beside: tuple[str, ...]
    metric: str | None = None
    genome: OpenGenome | None = None


@dataclass(frozen=True)
class Source:
    """Features of one layer, fed in one way, of pretrained or of fresh weights."""

    name: str
    start: Start
    layer: str
    feed: Feed

    def method(self, head: Head) -> str:
        """As results call it."""
        return f"{self.name} {self.layer} {self.feed}, {head}"


@dataclass
class ProbeRun:
    """The rows of one task as they come."""

    task: Task
    plan: ProbePlan
    rows: Rows
    device: torch.device

    def __post_init__(self) -> None:
        task = self.task
        of_kind = "lentimpra" if task.kind == "values" else "chip"
        self.head_of: Assay = self.plan.head_of or task.assay or of_kind
        metric = self.plan.metric or ("spearman" if task.assay == "splicing" else None)
        self.ledger = Ledger(task, self.rows, main_metric(task.kind, metric))
        lengths = {n for part in task.splits.values() for n in part.lengths.tolist()}
        self.longest = max(lengths)
        self.as_is = self.longest if len(lengths) == 1 else None  # see `Bases`
        self.task = replace(task, notes=[*task.notes, *self._notes()])

    @property
    def sources(self) -> list[Source]:
        """Features that are probed, those of the model first."""
        starts: list[tuple[str, Start]] = [(self.plan.pretrained.name, "pretrained")]
        if RANDOM in self.plan.beside:
            starts.append((RANDOM, "random"))
        return [
            Source(name, start, layer, feed)
            for name, start in starts
            for layer in self.plan.layers
            for feed in self.plan.feeds
        ]

    def probe_of(self, method: str) -> tuple[Source, Head]:
        """The features and the head that results call so."""
        of: dict[str, tuple[Source, Head]] = {
            one.method(head): (one, head) for one in self.sources for head in self.plan.heads
        }
        return of[method]

    @property
    def names(self) -> list[str]:
        """All methods, that of the model's which validation prefers first."""
        probes = {
            source.start: [one.method(head) for one in self.sources if one.start == source.start
                           for head in self.plan.heads]
            for source in self.sources
        }  # fmt: skip
        best = max(probes["pretrained"], key=self._valid)
        on_bases = [name for name in ON_BASES if name in self.plan.beside]
        rest = [name for name in probes["pretrained"] if name != best]
        return [best, *rest, *on_bases, *probes.get("random", [])]

    def _valid(self, method: str) -> float:
        return mean(row.settings["valid"] for row in self.rows.of(method, self.plan.seeds))

    def require_sense(self) -> None:
        """Raise UserError for sequences that no flanks go around, or that no memory holds."""
        plan, config = self.plan, self.plan.pretrained.space.config
        for feed in plan.feeds:
            Feeder(feed, plan.window, config.bin_size).require(self.longest)
        alone = set(plan.feeds) == {"alone"}
        shown = self.longest if alone else max(plan.window, self.longest)

        def needed(length: int) -> float:
            on_gpu = self.device.type == "cuda"
            return tuning_cost(config, "head", length, 1, on_gpu=on_gpu).total

        if needed(shown) > (available := memory_bytes(self.device)):
            fits = longest_fitting(needed, available, config.bin_size, shown)
            place = self.task.longest()[0] if shown == self.longest else self.task.path
            raise UserError(
                f"{place}: features of {shown:,} bp need {needed(shown) / 2**30:.1f} GiB at least; "
                f"there are {available / 2**30:.1f}. Expected {fits:,} bp at most, of "
                f"{'sequences' if alone else 'sequences and --window'}"
            )

    def run(self) -> None:
        """Fit whatever is not there yet. Raises UserError as `require_sense`."""
        self.require_sense()
        for name in ON_BASES:
            if name in self.plan.beside:
                self._run_on_bases(name)
        for source in self.sources:
            if source.start == "pretrained":
                self._run_source(source, 0, self.plan.seeds)
            else:
                for seed in self.plan.seeds:
                    self._run_source(source, seed, (seed,))

    def on_bases(self, name: str) -> tuple[dict[str, Inputs], Recipe]:
        """Inputs by split and the recipe of one of ON_BASES."""
        splits = self.task.splits
        if name == "dinucleotides, mlp":
            vectors: dict[str, Inputs] = {s: dinucleotides(e) for s, e in splits.items()}
            return vectors, mlp(self.head_of)
        bases: dict[str, Inputs] = {s: OneHot(e, self.longest) for s, e in splits.items()}
        if name == "one-hot, cnn":
            return bases, cnn(self.head_of, embedded=False)
        return bases, residual_bind()

    def _run_on_bases(self, name: str) -> None:
        key = self.ledger.key(
            {"method": name, "head of": self.head_of, "metric": self.ledger.metric}
        )
        inputs, recipe = self.on_bases(name)
        for seed in self.plan.seeds:
            if not self.rows.find(name, seed, key):
                self._keep(
                    name, seed, key, inputs, lambda seed=seed: self.fit(inputs, recipe, seed)
                )

    def _run_source(self, source: Source, weights_seed: int, seeds: tuple[int, ...]) -> None:
        missing = self._missing(source, seeds)
        if not missing:
            return
        with self.features(self.trunk(source, weights_seed)) as (positions, means):
            for head, seed, key in missing:
                inputs = positions if head == "cnn" else means
                self._keep(
                    source.method(head), seed, key, inputs,
                    lambda head=head, seed=seed: self.fit_probe(head, positions, means, seed),
                )  # fmt: skip

    def _missing(self, source: Source, seeds: tuple[int, ...]) -> list[tuple[Head, int, str]]:
        """Heads, seeds and keys of which there is no row yet."""
        found = []
        for head in self.plan.heads:
            key = self.ledger.key(self.facts(source, head))
            # Ridge regression has no seed of its own; fresh weights have.
            with_seed = head != "ridge" or source.start == "random"
            for seed in seeds if with_seed else seeds[:1]:
                if not self.rows.find(source.method(head), seed, key):
                    found.append((head, seed, key))
        return found

    def facts(self, source: Source, head: Head) -> dict[str, Any]:
        """What a probe is made with, besides the task and a seed."""
        plan = self.plan
        return {
            "weights": plan.pretrained.digest if source.start == "pretrained" else "random",
            **plan.pretrained.facts,
            "metric": self.ledger.metric,
            "source": [source.layer, source.feed],
            "window": plan.window if source.feed != "alone" else None,
            "draws": plan.draws if source.feed == "shuffled" else None,
            **({"genome": _genome_facts(plan.genome)} if source.feed == "genome" else {}),
            "head": [head, self.head_of],
        }

    def trunk(self, source: Source, weights_seed: int) -> Trunk:
        """The frozen model of a source. weights_seed: of fresh ones."""
        pretrained, task = self.plan.pretrained, self.task
        space = starting_space(
            pretrained.space, pretrained.species, pretrained.like, source.start, weights_seed
        )
        bin_size = space.config.bin_size
        if source.start == "random":
            reader = Reader(task.splits["train"], Bases(bin_size, self.as_is))
            measure_batchnorm(space, pretrained.species, reader)
        feeder = Feeder.of(
            source.feed, self.plan.window, bin_size, task.splits["train"], self.plan.draws,
            self.plan.genome,
        )  # fmt: skip
        space = space.to(self.device).eval().requires_grad_(False)
        return Trunk(space, pretrained.species, source.layer, feeder, self.device)

    @contextmanager
    def features(
        self, trunk: Trunk
    ) -> Iterator[tuple[dict[str, PositionFeatures], dict[str, Vectors]]]:
        """By position and as means, by split; on the disk for as long as this is open."""
        make_folder(self.rows.folder)
        with tempfile.TemporaryDirectory(prefix="features-", dir=self.rows.folder) as folder:
            found = {
                split: write_features(trunk, examples, self.as_is, Path(folder, f"{split}.npy"))
                for split, examples in self.task.splits.items()
            }
            yield {s: one[0] for s, one in found.items()}, {s: one[1] for s, one in found.items()}

    def fit_probe(
        self,
        head: Head,
        positions: Mapping[str, PositionFeatures],
        means: Mapping[str, Vectors],
        seed: int,
    ) -> FittedHead:
        """A head on features by position, or on their means."""
        if head == "ridge":
            return fit_ridge(self.task, means, self.ledger.metric, self.device)
        if head == "mlp":
            return self.fit(means, mlp(self.head_of), seed)
        return self.fit(positions, cnn(self.head_of, embedded=True), seed)

    def fit(self, inputs: Mapping[str, Inputs], recipe: Recipe, seed: int) -> FittedHead:
        """A network on inputs by split."""
        return fit_head(self.task, inputs, recipe, seed, self.ledger.metric, self.device)

    def _keep(
        self,
        method: str,
        seed: int,
        key: str,
        inputs: Mapping[str, Inputs],
        fit: Callable[[], FittedHead],
    ) -> None:
        began = time.perf_counter()
        fitted = fit()
        seconds = time.perf_counter() - began
        found = fitted.answers(inputs["test"], len(self.task.splits["test"]))
        facts: dict[str, Any] = {
            "valid": fitted.valid, "head_of": self.head_of, "inputs": list(inputs["test"].shape),
            **fitted.settings,
        }  # fmt: skip
        self.ledger.add(method, seed, key, found, seconds, facts, _remarks(fitted, seed))

    def _notes(self) -> list[str]:
        """What a reader of the table has to know of the probes."""
        plan, task = self.plan, self.task
        feeders = [Feeder(f, plan.window, 1, plan.draws, genome=plan.genome) for f in plan.feeds]
        notes = [feeder.describe() for feeder in feeders]
        ridge = f"ridge with {RIDGE:g}" if task.kind == "values" else "ridge: logistic regression"
        notes.append(f"heads after Tang and Koo (2024): those of {self.head_of}; {ridge}")
        notes.append("the first line is the probe of the model that is best on validation")
        report = find_duplicates(task)
        for (first, second), number in report.shared_groups.items():
            if number and second == "test":
                notes.append(
                    f"{number} elements of test are in {first}, too, in another orientation or as "
                    "they are: see the column without copies"
                )
        return notes


def _remarks(fitted: FittedHead, seed: int) -> list[str]:
    """What is to be said of a network that early stopping has left as it began."""
    best = fitted.settings.get("best_epoch")
    if best is None or best > 1:
        return []
    when = f"lowest after the first of {fitted.settings['epochs_done']} epochs"
    why = when if best else "never a number"
    return [f"seed {seed}: its validation loss was {why}; it has learnt little or nothing"]


def _genome_facts(genome: OpenGenome | None) -> list[str | int]:
    """By which rows of another genome around the same sequences are told apart."""
    assert genome is not None
    return [genome.path.name, len(genome.contigs), sum(genome.lengths.values())]
