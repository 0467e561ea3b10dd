"""What `spacescale selfcheck` holds against each other, and how near it must be.

Every function here is called by all ranks together and returns the same checks on all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spacescale.checkpoint.consolidate import consolidate
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.pieces import StoredPieces
from spacescale.checkpoint.probe import TOLERANCE, take_probe
from spacescale.dataset.batch import Batch
from spacescale.errors import UserError
from spacescale.files import sha256
from spacescale.model.exports import load_weights
from spacescale.objectives import Objective
from spacescale.parallel import comm
from spacescale.parallel.engine import parameter_groups
from spacescale.testing.certificate import Check
from spacescale.testing.checked_runs import (
    CLIP,
    RESUMED_AT,
    STEPS,
    Bench,
    Layout,
    go_on,
    other_layout,
    start,
    throw_away,
    train,
    write_data,
)
from spacescale.testing.plain_training import (
    MicroStep,
    PlainStep,
    plain_step,
    running_statistics,
    watch_margins,
    without_gradient,
)
from spacescale.train.interval_losses import LossSum
from spacescale.train.run import PreparedRun
from spacescale.train.schedule import learning_rate

NORM = "optim/gradient_norm"
STRAIGHT, RESUMED, MOVED = "straight", "resumed", "moved"  # names of the runs
FLOOR = 1e-3  # of the loss: terms that are smaller are held against it


@dataclass(frozen=True)
class Bounds:
    """How near the figures must be, relative: about ten times the rounding that was measured.

    In bf16 rounding turns choices of experts, which the sums of routing and the smallest gradients
    show first (0.16 and 0.28 were seen, and 1e-3 of the losses): the strict check is that in fp32.
    """

    loss: float  # of the plain model, and after a stop in another layout
    routing: float
    norm: float
    gradient: float
    statistics: float
    resumed: float  # after a stop in the same layout; 0 on CPUs
    prediction: float  # of the plainly trained model, at the end


FP32 = Bounds(1e-4, 1e-4, 1e-3, 1e-4, 1e-4, 1e-4, 1e-3)
BF16 = Bounds(2e-2, 0.5, 0.2, 0.4, 2e-2, 2e-2, 0.1)


@dataclass(frozen=True)
class Plain:
    """The plain model after all steps, what each of them gave, and what its micro-steps lose."""

    model: nn.Module
    objective: Objective
    logged: list[dict[str, float]]
    micro_steps: list[list[MicroStep]]  # of each step


def all_checks(bench: Bench) -> Iterator[Check]:
    """All checks, each as soon as it is made."""
    write_data(bench)
    checks, plain = check_training(bench)
    yield from checks
    experts = getattr(bench.config.model, "species_num_experts", 1)
    yield from check_resuming(bench, other_layout(bench.layout, comm.world_size(), experts))
    yield from check_converting(bench, plain)


def check_training(bench: Bench) -> tuple[list[Check], Plain | None]:
    """Train the tiny model and hold losses, norms, gradients and statistics to the plain model's.

    The run stays in the bench's folder for the checks after this; rank 0 keeps the plain model.
    """
    run = start(bench, STRAIGHT, bench.layout)
    train(bench, STRAIGHT, run)
    between_ranks = _compare_ranks(bench, run)
    plain = comm.on_main_only(lambda: train_plainly(bench, run))
    checks = comm.on_main(lambda: _compare_with_plain(bench, run, plain))
    throw_away(bench, run)
    return [*checks, *between_ranks], plain


def _compare_ranks(bench: Bench, run: PreparedRun) -> list[Check]:
    """How far the ranks' running statistics are apart, relative to the largest, if there are any.

    All ranks call it together.
    """
    statistics = running_statistics(run.trainer.engine.module)  # pyright: ignore[reportArgumentType]
    if not statistics:
        return []
    ranks = comm.gather_rows(torch.cat(list(statistics.values())))
    spread = float((ranks - ranks[0]).abs().max() / ranks.abs().max())
    bound = (BF16 if bench.bf16 else FP32).statistics
    return [Check("BatchNorm statistics, between ranks", spread, bound)]


def _compare_with_plain(bench: Bench, run: PreparedRun, plain: Plain | None) -> list[Check]:
    assert plain is not None
    bounds = BF16 if bench.bf16 else FP32
    found = bench.logged(STRAIGHT)
    routing = {key for key in plain.logged[0] if key.rpartition("_")[2] in ("mi", "z", "cv")}
    losses = {key for step in plain.logged for key in step} - routing - {NORM}
    logged = [
        ("losses", losses, bounds.loss),
        ("routing sums: MI, z, CV", routing, bounds.routing),
        ("norm that is clipped", {NORM}, bounds.norm),
    ]
    return [
        *(
            _compare_logged(name, found, plain.logged, keys, bound)
            for name, keys, bound in logged
            if keys
        ),
        Check("share of the norm left by clipping", CLIP / plain.logged[0][NORM], 0.5),
        *_compare_a_step(bench, run, plain.micro_steps, bounds),
    ]


def train_plainly(bench: Bench, run: PreparedRun) -> Plain:
    """The whole run in this process alone, logged by the trainer's names."""
    config, objective = run.trainer.config, run.trainer.objective
    torch.manual_seed(config.run.seed)
    model = objective.build().to(bench.device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optim),
        lr=config.optim.lr,
        betas=(config.optim.beta1, config.optim.beta2),
    )
    micro_steps = [micro_steps_of(run, step) for step in range(STEPS)]
    logged = []
    for step, here in enumerate(micro_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.optim)
        logged.append(_as_logged(plain_step(model, optimizer, here, CLIP, bench.bf16)))
    return Plain(model, objective, logged, micro_steps)


def micro_steps_of(run: PreparedRun, step: int) -> list[MicroStep]:
    """A step's micro-steps, each with what all ranks together read in it."""
    trainer = run.trainer
    micro_batch_size = trainer.engine.train_micro_batch_size_per_gpu() * comm.world_size()
    windows = trainer.objective.windows(
        trainer.data.datasets, micro_batch_size, 0, 1, trainer.accumulation
    )

    def of_batch(batch: Batch) -> MicroStep:
        here = {name: part.to(trainer.device) for name, part in batch.items()}
        return lambda model: trainer.objective.losses(model, here, lambda x: x, step)

    first = step * trainer.accumulation
    return [of_batch(windows[place]) for place in range(first, first + trainer.accumulation)]


def _as_logged(step: PlainStep) -> dict[str, float]:
    """As the trainer logs it: a species' loss is the mean over its windows of the step."""
    found, sums = {"train/loss": step.loss, NORM: step.norm}, {}
    for losses in step.losses:
        for name, term in losses.terms.items():
            key = f"train/{name}"
            found[key] = found.get(key, 0.0) + float(term) / len(step.losses)
        for name, of in losses.of_species.items():
            measured = float(of.measured) * of.windows
            added = LossSum(float(of.mean) * measured, measured, of.windows)
            sums[name] = sums.get(name, LossSum()) + added
    return found | {f"train/loss/{name}": of_step.mean for name, of_step in sums.items()}


def _compare_logged(
    name: str,
    found: list[dict[str, float]],
    expected: list[dict[str, float]],
    keys: set[str],
    bound: float,
    first: int = 0,
) -> Check:
    """The worst relative difference of these numbers over all steps; `first` come before them."""
    worst, where = 0.0, ""
    assert len(found) == len(expected)
    for step, (one, other) in enumerate(zip(found, expected, strict=True), first + 1):
        for key in sorted(keys & (one.keys() | other.keys())):
            a, b = (numbers.get(key) for numbers in (one, other))
            floor = FLOOR * abs(other["train/loss"])
            error = float("inf") if a is None or b is None else abs(a - b) / max(abs(b), floor)
            if not error <= worst:
                worst, where = error, f"{key.removeprefix('train/')}, step {step}"
    return Check(name, worst, bound, where)


def _compare_a_step(
    bench: Bench, run: PreparedRun, micro_steps: list[list[MicroStep]], bounds: Bounds
) -> list[Check]:
    """Gradients and BatchNorm of one step, by the plain model from the weights before it.

    The step is the one whose choices of experts rounding is least likely to turn.
    """
    margins = {
        step: _margin(_plain_at(bench, run, step), micro_steps[step]) for step in range(1, STEPS)
    }
    step = max(margins, key=lambda one: margins[one])
    model, here = _plain_at(bench, run, step), micro_steps[step]
    nothing = without_gradient(model, here)
    plain_step(model, torch.optim.SGD(model.parameters(), lr=0.0), here, CLIP, bench.bf16)
    expected = {
        n: p.grad.flatten().cpu() for n, p in model.named_parameters() if p.grad is not None
    }
    found = _gradients(bench, step, {name: len(tensor) for name, tensor in expected.items()})
    largest = max(float(tensor.norm()) for tensor in expected.values())
    errors = {}
    for name, tensor in expected.items():
        scale = largest if name in nothing else float(tensor.norm())
        errors[name] = float((found[name] - tensor).norm()) / scale
    after = consolidate(bench.checkpoint(STRAIGHT, step + 1))
    statistics = {
        name: float((after[name] - tensor.cpu()).abs().max() / tensor.abs().max())
        for name, tensor in running_statistics(model).items()
    }
    checks = [_worst("gradients, clipped", errors, bounds.gradient)]
    if statistics:
        checks.append(_worst("BatchNorm statistics", statistics, bounds.statistics))
    return checks


def _worst(name: str, errors: dict[str, float], bound: float) -> Check:
    where = max(errors, key=lambda one: torch.tensor(errors[one]).nan_to_num(nan=torch.inf))
    return Check(name, errors[where], bound, where)


def _plain_at(bench: Bench, run: PreparedRun, step: int) -> nn.Module:
    """The plain model with the weights and statistics of a checkpoint, in training mode."""
    checkpoint = bench.checkpoint(STRAIGHT, step)
    model = run.trainer.objective.build()
    load_weights(model, consolidate(checkpoint), str(checkpoint))
    return model.to(bench.device)


@torch.no_grad()
def _margin(model: nn.Module, micro_steps: list[MicroStep]) -> float:
    """How near the nearest choice of experts is, if any; the model's statistics move."""
    margins = watch_margins(model)
    for micro_step in micro_steps:
        micro_step(model)
    return min(margins, default=torch.inf)


def _gradients(bench: Bench, step: int, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Clipped gradients of a step as the optimiser saw them, flat, from Adam's moments."""
    beta = bench.config.optim.beta1
    before, after = (
        StoredPieces(bench.checkpoint(STRAIGHT, number)) for number in (step, step + 1)
    )
    moment = "exp_avg"
    return {
        name: (after.read(moment, name, 0, n) - beta * before.read(moment, name, 0, n)) / (1 - beta)
        for name, n in sizes.items()
    }


def check_resuming(bench: Bench, other: Layout) -> list[Check]:
    """Go on from a checkpoint with everything in memory spoiled, in two layouts."""
    go_on(bench, STRAIGHT, RESUMED, bench.layout)
    go_on(bench, STRAIGHT, MOVED, other)
    return comm.on_main(lambda: _compare_resumed(bench, other))


def _compare_resumed(bench: Bench, other: Layout) -> list[Check]:
    bounds = BF16 if bench.bf16 else FP32
    exact = bench.device.type == "cpu"
    bound = 0.0 if exact else bounds.resumed
    expected = bench.logged(STRAIGHT)[RESUMED_AT:]
    losses = {key for step in expected for key in step if key.startswith("train/loss")}
    everything = {key for step in expected for key in step if key.startswith("train/")} | {NORM}
    checks = [
        _compare_logged(
            "losses after a stop", bench.logged(RESUMED), expected, everything, bound, RESUMED_AT
        ),
        _compare_logged(
            f"losses after a stop, moved to {other}",
            bench.logged(MOVED),
            expected,
            losses,
            bounds.loss,
            RESUMED_AT,
        ),
    ]
    if exact:
        differing = [
            path.name
            for path in sorted(bench.checkpoint(STRAIGHT, STEPS).glob("*.safetensors"))
            if sha256(path) != sha256(bench.checkpoint(RESUMED, STEPS) / path.name)
        ]
        where = ", ".join(differing) or "weights, moments, buffers, random state"
        checks.append(Check("files of the last checkpoint that differ", len(differing), 0.0, where))
    return checks


def check_converting(bench: Bench, plain: Plain | None) -> list[Check]:
    """Convert what was stopped and moved, and let it predict beside the plain model."""
    return comm.on_main(lambda: _compare_converted(bench, plain))


def _compare_converted(bench: Bench, plain: Plain | None) -> list[Check]:
    assert plain is not None
    bound = (BF16 if bench.bf16 else FP32).prediction
    of_saved, of_plain = "predictions, converted", "predictions, converted and plainly trained"
    export, objective = bench.folder / "export", plain.objective
    whole = objective.for_use() is not objective
    try:
        agreement = convert(bench.checkpoint(MOVED, STEPS), export, whole)
    except UserError as error:
        return [Check(of_saved, float("inf"), TOLERANCE, str(error))]
    assert agreement is not None  # the last checkpoint of a run holds a probe
    expected = take_probe(plain.model, objective, bench.device).predictions
    found = take_probe(objective.load_export(export), objective, torch.device("cpu")).predictions
    errors = {
        name: float((found[name] - tensor).abs().max() / tensor.abs().max())
        for name, tensor in expected.items()
    }
    return [Check(of_saved, agreement.difference, TOLERANCE), _worst(of_plain, errors, bound)]
