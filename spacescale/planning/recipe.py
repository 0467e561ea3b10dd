"""The numbers by which `spacescale recommend` chooses: all of them here, and nothing else here.

What the numbers are read by: "measured bins" are those of the training windows, each base once
though windows overlap, times the share that is measured (mean over tracks), added up over species.
An epoch reads as many windows as there are training windows of all species.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Number = TypeVar("Number", int, float)

CPU_MINUTES, GPU_MINUTES = 20.0, 240.0  # of training, where --minutes does not say
# A step under DeepSpeed by one of the trial: measured with space_tiny, one process on two cores.
DEEPSPEED = 1.1
MEMORY_SHARE = 0.8  # of a machine's or GPU's memory that the plan of a run may take

# (measured bins from which on, preset), ascending. Geometry follows the data, not the preset.
PRESETS_ON_CPU = ((0, "space_tiny"),)  # space_demo was worse, however little there is to train on
PRESETS_ON_GPU = (*PRESETS_ON_CPU, (1_000_000, "space_small"), (10_000_000, "space_large"))

# By training windows of a species, the mean over species.
WINDOWS_PER_STEP = ((0, 2), (1_000, 8), (10_000, 32), (30_000, 128))
WINDOWS_PER_SPECIES = 1  # of a step, at least
MAX_EPOCHS = 25
LEARNING_RATE = 5e-4
WARMUP_SHARE, MOST_WARMUP = 0.1, 5_000  # of the steps; steps
DROPOUT = ((0, 0.1), (1_000_000, 0.4))  # by measured bins
EQUAL_UP_TO, BALANCE_BEYOND = 3.0, 0.5  # largest by smallest species; data.species_balance

VALIDATIONS, VALIDATION_SHARE = 12, 0.15  # in a run; of its time, at most
PATIENCE = 4  # validations, where overfitting is likely

# Below or above these something is said.
FEW_STEPS = 200
OVERFITTING_EPOCHS = 10.0  # of a species
FEW_VALID_WINDOWS = 20
LITTLE_SEQUENCE_BP = 1_000_000  # to train on, of a species: with as much SPACE beat no simple model
FEW_MEASURED_BINS = 1_000  # of a track
LITTLE_MEASURED = 0.5  # of a track's bins

# What the rule of each setting rests on, in a line. GUESSES: no experiment has shown its numbers
# yet; what is printed says so.
BECAUSE = {
    "preset": "made for little data on CPUs; larger ones need a GPU and more measured bins",
    "windows per step": f"few for small data; {WINDOWS_PER_SPECIES} of each species at least",
    "steps": f"as many as the time allows, up to {MAX_EPOCHS} epochs: yeast and human still gained "
    "there, fly no more",
    "warm-up": f"{WARMUP_SHARE:.0%} of the steps, {MOST_WARMUP:,} at most",
    "learning rate": "1e-3 was worse on mouse windows and no better on human ones (one seed)",
    "dropout": "by measured bins",
    "species balance": f"1 is all equally often, 0 by windows; 1 up to {EQUAL_UP_TO:g} to 1",
    "species weights": "no other has been tried enough (loss.species_weight)",
    "validation": f"{VALIDATIONS} times, a checkpoint each",
}
GUESSES = frozenset(BECAUSE) - {"learning rate", "steps"}


def presets(measured_bins: float, on_gpu: bool) -> list[str]:
    """Presets worth their size for so many measured bins, the largest first."""
    table = PRESETS_ON_GPU if on_gpu else PRESETS_ON_CPU
    return [name for least, name in reversed(table) if measured_bins >= least]


def windows_per_step(train_windows: int, num_species: int) -> int:
    """Windows of an optimiser step, of all processes and species together."""
    at_least = WINDOWS_PER_SPECIES * num_species
    return max(_row(WINDOWS_PER_STEP, train_windows // num_species), at_least)


def most_steps(train_windows: int, windows_a_step: int) -> int:
    """Optimiser steps beyond which the data are read too often."""
    return max(1, MAX_EPOCHS * train_windows // windows_a_step)


def learning_rate(steps: int, windows_a_step: int) -> float:
    """Peak learning rate; the same for every length and batch so far."""
    return LEARNING_RATE


def warmup_steps(steps: int) -> int:
    """Steps of linear warm-up, in a run of so many."""
    return min(max(1, round(WARMUP_SHARE * steps)), MOST_WARMUP)


def dropout(measured_bins: float) -> float:
    """Residual and expert dropout."""
    return _row(DROPOUT, measured_bins)


def species_balance(train_windows: Mapping[str, int]) -> float:
    """`data.species_balance`, from the training windows of each species."""
    largest, smallest = max(train_windows.values()), min(train_windows.values())
    return 1.0 if largest <= EQUAL_UP_TO * smallest else BALANCE_BEYOND


def _row(table: tuple[tuple[int, Number], ...], value: float) -> Number:
    """The entry of the last row that `value` reaches."""
    return next(found for least, found in reversed(table) if value >= least)
