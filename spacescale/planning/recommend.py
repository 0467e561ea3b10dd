"""Settings of a first run on given data sets and this machine, each with its reason.

Rules are those of `recipe`; what data and machine are like is read and measured.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spacescale.config import Config
from spacescale.dataset.loader import TrainingWindows, open_datasets
from spacescale.dataset.negative_targets import refuse_negative_tracks
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.planning import recipe
from spacescale.planning.cautions import cautions
from spacescale.planning.data_facts import SpeciesFacts, look_at
from spacescale.planning.measure import memory_bytes
from spacescale.planning.plan import Precision, RunPlan, make_plan
from spacescale.planning.species import micro_batch_windows, with_species
from spacescale.planning.states import resolve_layout
from spacescale.planning.trial import Trial, try_out

DEEPSPEED_JSON, ZERO_STAGE = "ds_configs/zero2_moe.json", 2
SMALLEST_BIN = 4  # model.num_downsamples is 2 at least


@dataclass(frozen=True)
class Here:
    """This machine."""

    gpus: int
    gpu: str  # its name, "" without one
    cores: int
    memory_bytes: int  # of each GPU, else of the machine

    @property
    def processes(self) -> int:
        """Processes to train with: one per GPU; on CPUs one, with all cores."""
        return max(1, self.gpus)


@dataclass(frozen=True)
class Choice:
    """A setting, and why."""

    setting: str
    value: str
    why: str

    @property
    def is_guess(self) -> bool:
        """Whether the numbers of its rule are yet to be shown."""
        return self.setting in recipe.GUESSES


def _by_recipe(setting: str, value: str, *facts: str) -> Choice:
    return Choice(setting, value, "; ".join([*facts, recipe.BECAUSE[setting]]))


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how often to validate."""

    steps: int
    by_data: bool  # the data end it before the time does
    valid_every: int
    seconds: float


@dataclass(frozen=True)
class Recommendation:
    """What to run."""

    species: list[SpeciesFacts]
    machine: Here
    plan: RunPlan
    trial: Trial
    choices: list[Choice]
    cautions: list[str]
    command: list[str]  # lines of one command, as words for a shell


def this_machine() -> Here:
    """Look at GPUs, cores and memory. Raises UserError for an accelerator that is not there."""
    device, on_gpu = comm.device(), comm.uses_gpu()
    return Here(
        gpus=torch.cuda.device_count() if on_gpu else 0,
        gpu=torch.cuda.get_device_name(device) if on_gpu else "",
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=memory_bytes(device),
    )


def recommend(paths: list[Path], minutes: float | None, given: Sequence[str]) -> Recommendation:
    """Recommend settings for data sets, of which the command will name the paths in `given`.

    Reads a share of the training windows, and trains for some seconds. minutes: of training; None
    takes the recipe's. Raises UserError for data sets that no preset fits or training refuses.
    """
    datasets = open_datasets(paths)
    refuse_negative_tracks(datasets.values())
    shape = fitting_shape(datasets)
    facts = [look_at(data) for data in datasets.values()]
    here = this_machine()
    if minutes is None:
        minutes = recipe.GPU_MINUTES if here.gpus else recipe.CPU_MINUTES
    train = {species.name: species.windows["train"] for species in facts}
    measured_bins = sum(species.measured_bins for species in facts)
    asked = recipe.windows_per_step(sum(train.values()), len(train))
    windows_a_step = math.ceil(asked / here.processes) * here.processes
    balance = recipe.species_balance(train)
    plan = _largest_that_fits(list(datasets.values()), shape, measured_bins, windows_a_step, here)

    micro = sum(plan.windows.values())
    wanted = shape | {
        "data.micro_batch_size": micro,
        "data.global_batch_size": windows_a_step,
        "data.species_balance": balance,
        "model.dropout": recipe.dropout(measured_bins),
    }
    preset = plan.config.preset
    config = with_species(build_config(preset, _overrides(preset, wanted)), paths)
    order = sample_order(config, train, micro, here.processes)
    trial = try_out(config, TrainingWindows(datasets, order, 0, config.space.seq_length, 0))
    valid = sum(min(s.windows.get("valid", 0), config.run.valid_windows) for s in facts)
    step_s = step_seconds(trial, plan.accumulation)
    schedule = plan_schedule(
        60 * minutes,
        step_s,
        trial.forward_window_s * valid / here.processes,
        recipe.most_steps(sum(train.values()), windows_a_step),
    )
    epochs = {
        name: schedule.steps * windows_a_step * share / train[name]
        for name, share in order.shares().items()
    }
    patience = recipe.PATIENCE if max(epochs.values()) > recipe.OVERFITTING_EPOCHS else 0
    wanted |= {
        "optim.max_steps": schedule.steps,
        "optim.warmup_steps": recipe.warmup_steps(schedule.steps),
        "optim.lr": recipe.learning_rate(schedule.steps, windows_a_step),
        "run.valid_every": schedule.valid_every,
        "run.save_every": schedule.valid_every,
        "run.patience": patience if valid else 0,
    }
    overrides = _overrides(preset, wanted)
    final = build_config(preset, overrides)
    choices = [
        *_of_the_model(plan, final, measured_bins, here),
        *_of_the_schedule(plan, final, schedule, trial, epochs, minutes, here),
    ]
    return Recommendation(
        facts,
        here,
        plan,
        trial,
        choices,
        cautions(facts, epochs, schedule.steps, order, trial, step_s),
        _command(preset, overrides, list(train), given, here),
    )


def fitting_shape(datasets: dict[str, SpeciesData]) -> dict[str, int]:
    """`model.*` settings that the data sets need, whatever the preset.

    Their input, where they differ the shortest, is cut to equal whole bins on both sides.
    Raises UserError for bins that no model has, and for sets without training windows.
    """
    for data in datasets.values():
        bin_size = data.bin_size
        if bin_size < SMALLEST_BIN or bin_size & (bin_size - 1):
            raise UserError(
                f"{data.path}: bins of {bin_size} bp; no model has such: they are of 4, 8, 16 … bp "
                "(2**model.num_downsamples). Shard with --bin-size 128, or another of them"
            )
        if not data.manifest.num_windows.get("train"):
            raise UserError(f"{data.path}: no training windows")
    first = next(iter(datasets.values()))
    span = first.target_length * first.bin_size
    longest = min(data.seq_length for data in datasets.values())
    return {
        "model.num_downsamples": first.bin_size.bit_length() - 1,
        "model.target_length": first.target_length,
        "model.seq_length": span + (longest - span) // (2 * first.bin_size) * 2 * first.bin_size,
    }


def sample_order(
    config: Config, train: dict[str, int], micro_batch: int, processes: int
) -> SampleOrder:
    """The order in which the recommended run would read its windows."""
    return SampleOrder(
        seed=config.run.seed,
        num_windows=train,
        balance=config.data.species_balance,
        micro_batch_size=micro_batch,
        world_size=processes,
        shift_bp=config.data.shift_bp,
        reverse_complement=config.data.reverse_complement,
    )


def step_seconds(trial: Trial, accumulation: int) -> float:
    """Seconds of an optimiser step of so many micro-steps, under DeepSpeed."""
    return recipe.DEEPSPEED * (accumulation * trial.micro_step_s + trial.optimiser_s)


def plan_schedule(seconds: float, step_s: float, validation_s: float, most_steps: int) -> Schedule:
    """Steps that fit into so many seconds with their validations, `most_steps` at most."""
    validations = recipe.VALIDATIONS
    if validation_s:
        affordable = int(recipe.VALIDATION_SHARE * seconds / validation_s)
        validations = max(1, min(validations, affordable))
    by_time = max(1, int((seconds - validations * validation_s) / step_s))
    steps = min(by_time, most_steps)
    valid_every = math.ceil(steps / validations)
    spent = steps * step_s + math.ceil(steps / valid_every) * validation_s
    return Schedule(steps, most_steps < by_time, valid_every, spent)


def _largest_that_fits(
    datasets: list[SpeciesData],
    shape: dict[str, int],
    measured_bins: float,
    windows_a_step: int,
    here: Here,
) -> RunPlan:
    """Plan the largest preset worth its size whose run fits the memory, at its largest micro-batch.

    Raises UserError where none does.
    """
    on_gpu = here.gpus > 0
    precision: Precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported(False) else "fp32"
    each = windows_a_step // here.processes
    sizes = [size for size in range(each, 0, -1) if each % size == 0]
    for preset in recipe.presets(measured_bins, on_gpu):
        config = with_species(
            build_config(preset, _overrides(preset, shape)), [data.path for data in datasets]
        )
        layout = resolve_layout(config, here.processes, ZERO_STAGE, None)
        for size in sizes:
            windows = micro_batch_windows(config, size)
            plan = make_plan(config, layout, windows, precision, on_gpu, each // size)
            if plan.total_bytes <= recipe.MEMORY_SHARE * here.memory_bytes:
                return plan
    raise UserError(
        f"no preset fits {here.memory_bytes / 2**30:.1f} GiB of memory with inputs of "
        f"{shape['model.seq_length']:,} bp; shard with a smaller --seq-length and --target-length"
    )


def _overrides(preset: str, wanted: dict[str, Any]) -> list[str]:
    """`section.field=value` for what differs from the preset."""
    base = build_config(preset, [])
    found = []
    for key, value in wanted.items():
        section, field = key.split(".")
        if getattr(getattr(base, section), field) != value:
            found.append(f"{key}={json.dumps(value)}")
    return found


def _of_the_model(plan: RunPlan, final: Config, measured_bins: float, here: Here) -> list[Choice]:
    model, data = final.space, final.data
    where = f"{here.gpus} GPUs" if here.gpus > 1 else "one GPU" if here.gpus else "one process"
    micro_steps = f"{plan.accumulation} micro-steps" if plan.accumulation > 1 else "one micro-step"
    of_species = [
        _by_recipe("species balance", f"{data.species_balance:g}"),
        _by_recipe("species weights", "1"),
    ]
    return [
        _by_recipe(
            "preset",
            final.preset,
            f"{plan.parameters.total / 1e6:.1f} M parameters for {measured_bins:,.0f} measured "
            f"bins, on a {'GPU' if here.gpus else 'CPU'}",
        ),
        Choice(
            "input",
            f"{model.seq_length:,} bp",
            f"as the data; {model.target_length} bins of {model.bin_size} bp",
        ),
        _by_recipe(
            "windows per step",
            str(data.global_batch_size),
            f"{micro_steps} of {data.micro_batch_size} on {where}",
        ),
        _by_recipe("dropout", f"{model.dropout:g}"),
        *(of_species if len(plan.config.space.species) > 1 else []),
    ]


def _of_the_schedule(
    plan: RunPlan,
    final: Config,
    schedule: Schedule,
    trial: Trial,
    epochs: dict[str, float],
    minutes: float,
    here: Here,
) -> list[Choice]:
    run = final.run
    read = ", ".join(f"{name} {count:.1f}" for name, count in epochs.items())
    limit = "the data end it" if schedule.by_data else f"{minutes:g} minutes end it"
    early = [f"ends early after {run.patience} without a better one"] if run.patience else []
    alone = "" if here.processes == 1 else ", without what GPUs exchange"
    kind = "of GPU memory in the trial" if here.gpus else "of the trial, Python included"
    return [
        _by_recipe("steps", f"{final.optim.max_steps:,}", f"{limit}; epochs: {read}"),
        _by_recipe("warm-up", f"{final.optim.warmup_steps:,}"),
        _by_recipe("learning rate", f"{final.optim.lr:g}"),
        _by_recipe("validation", f"every {run.valid_every}", *early),
        Choice(
            "time",
            f"{schedule.seconds / 60:.1f} min",
            f"{step_seconds(trial, plan.accumulation):.2f} s a step, timed here over "
            f"{trial.micro_steps} × {final.data.micro_batch_size} windows{alone}; start-up comes "
            "on top",
        ),
        Choice(
            "memory",
            f"{trial.memory_gib:.1f} GiB",
            f"measured peak {kind}; DeepSpeed's buffers come on top",
        ),
    ]


def _command(
    preset: str, overrides: list[str], species: list[str], given: Sequence[str], here: Here
) -> list[str]:
    name = "_".join(species) if len(species) <= 4 else f"{len(species)}_species"
    first = f"deepspeed --num_gpus {here.processes} spacescale/pretrain.py"
    data = ["--data", *given] if given else []
    return [
        f"{first} --deepspeed {DEEPSPEED_JSON}",
        shlex.join(["--preset", preset, *data]),
        shlex.join(["--output", f"runs/{name}"]),
        *(shlex.join(overrides[i : i + 4]) for i in range(0, len(overrides), 4)),
    ]
