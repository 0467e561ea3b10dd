"""What an arm costs: parameters, operations per step, and the steps that equal work leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from spacescale.ablation.arms import Arm, require_free
from spacescale.config import Config
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.sampler import SampleOrder
from spacescale.overrides import build_config
from spacescale.planning.flops import micro_batch_flops, training_flops
from spacescale.planning.parameters import ParameterCounts, count_parameters
from spacescale.planning.species import with_species

Equal = Literal["steps", "flops"]
# What is counted in steps: stretched together, so that the schedule keeps its shape and as many
# checkpoints are there to choose from.
IN_STEPS = (
    ("optim", "max_steps"), ("optim", "warmup_steps"), ("run", "valid_every"),
    ("run", "save_every"),
)  # fmt: skip


@dataclass(frozen=True)
class Costed:
    """An arm whose overrides say how long it trains, and what that takes.

    window_flops: forward and backward of one window, the mean over species as they are read, of
    the experts that a token meets.
    """

    arm: Arm
    config: Config
    parameters: ParameterCounts
    window_flops: float

    @property
    def step_flops(self) -> float:
        """Of an optimiser step of one process without accumulation."""
        data = self.config.data
        return self.window_flops * (data.global_batch_size or data.micro_batch_size)


def cost_arms(
    arms: Sequence[Arm], preset: str, overrides: Sequence[str], data: Sequence[Path], equal: Equal
) -> list[Costed]:
    """What each arm costs; with equal "flops" each has the steps that the first's work allows.

    Raises UserError for overrides that do not fit, and for data that are none.
    """
    windows = {n: d.manifest.num_windows.get("train", 0) for n, d in open_datasets([*data]).items()}
    found: list[Costed] = []
    for arm in arms:
        if equal == "flops" and found:
            in_steps = [f"{section}.{name}" for section, name in IN_STEPS]
            require_free(arm.overrides, in_steps, f"--arms {arm.name}")
        costed = _cost(arm, preset, overrides, data, windows)
        if equal == "flops" and found:
            factor = found[0].step_flops / costed.step_flops
            stretched = replace(arm, overrides=arm.overrides + _stretched(costed.config, factor))
            costed = _cost(stretched, preset, overrides, data, windows)
        found.append(costed)
    return found


def _stretched(config: Config, factor: float) -> tuple[str, ...]:
    lengths = {f"{part}.{name}": getattr(getattr(config, part), name) for part, name in IN_STEPS}
    return tuple(f"{key}={max(1, round(n * factor)) if n else 0}" for key, n in lengths.items())


def _cost(
    arm: Arm,
    preset: str,
    overrides: Sequence[str],
    data: Sequence[Path],
    windows: Mapping[str, int],
) -> Costed:
    config = with_species(build_config(preset, [*overrides, *arm.overrides]), [*data])
    order = SampleOrder(
        0,
        dict(windows),
        config.data.species_balance,
        micro_batch_size=1,
        world_size=1,
        shift_bp=0,
        reverse_complement=False,
        importance=config.data.species_importance,
    )
    flops = sum(
        share * training_flops(micro_batch_flops(config.space, {name: 1}))
        for name, share in order.shares().items()
    )
    return Costed(arm, config, count_parameters(config.space), flops)
