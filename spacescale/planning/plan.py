"""The plan of a run: what a configuration costs on a given number of GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from spacescale.config import Config
from spacescale.errors import UserError
from spacescale.overrides import build_config
from spacescale.planning.activations import Activations, activation_bytes, product_bytes
from spacescale.planning.bases import bases_bytes, bases_flops, with_bases
from spacescale.planning.encoder_plan import SEQUENCES, encoder_activations, encoder_flops
from spacescale.planning.flops import (
    forward_flops,
    micro_batch_flops,
    recomputed_flops,
    training_flops,
)
from spacescale.planning.machine import MACHINES, Machine, StepTime, step_time
from spacescale.planning.parameters import ParameterCounts, count_parameters
from spacescale.planning.species import micro_batch_windows, with_species
from spacescale.planning.states import Layout, StateBytes, resolve_layout, state_bytes
from spacescale.planning.traffic import Traffic, step_traffic
from spacescale.space_config import ModelConfig

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Work:
    """FLOPs of one micro-batch: by the model's definition, and as executed here."""

    stages: dict[str, float]  # stage → forward
    forward: float
    training: float  # forward and backward
    executed_forward: float
    executed_training: float  # with what is recomputed


@dataclass(frozen=True)
class RunPlan:
    """What one configuration costs on one layout."""

    config: Config
    layout: Layout
    # Species → windows of the largest micro-batch of one GPU; of tokens, SEQUENCES → how many.
    windows: dict[str, int]
    precision: Precision
    parameters: ParameterCounts
    window_work: dict[str, Work]  # species → of one window alone in its micro-batch
    micro_batch_work: Work  # of `windows`
    states: StateBytes
    activations: Activations
    accumulation: int  # micro-steps per optimiser step
    traffic: Traffic  # of an optimiser step
    machine: Machine

    @property
    def total_bytes(self) -> float:
        """Bytes on one GPU, without temporaries, communication buffers and allocator slack."""
        return self.states.total + self.activations.total

    @property
    def step(self) -> StepTime:
        """Time of an optimiser step, from the machine's rates."""
        flops = self.accumulation * self.micro_batch_work.executed_training
        return step_time(self.machine, self.layout, self.traffic, flops)

    @property
    def windows_per_step(self) -> int:
        """Windows that all GPUs train on in an optimiser step."""
        return self.layout.gpus * self.accumulation * sum(self.windows.values())


def plan_preset(
    preset: str,
    overrides: list[str],
    data: list[Path],
    *,
    gpus: int,
    zero_stage: int,
    ep_size: int | None,
    micro_batch: int | None,
    precision: Precision,
    accumulation: int,
    machine: Machine,
) -> RunPlan:
    """Plan a preset; without `data` for the published tracks of human and mouse.

    `ep_size` and `micro_batch` None are the preset's. Raises UserError for values that do not fit.
    """
    config = with_species(build_config(preset, overrides), data)
    size = config.data.micro_batch_size if micro_batch is None else micro_batch
    if size < 1:
        raise UserError(f"--micro-batch {size}: expected at least 1")
    if accumulation < 1:
        raise UserError(f"--accumulation {accumulation}: expected at least 1")
    layout = resolve_layout(config, gpus, zero_stage, ep_size)
    return make_plan(
        config,
        layout,
        micro_batch_windows(config, size),
        precision,
        accumulation=accumulation,
        machine=machine,
    )


def make_plan(
    config: Config,
    layout: Layout,
    windows: dict[str, int],
    precision: Precision,
    on_gpu: bool = True,
    accumulation: int = 1,
    machine: Machine = MACHINES["a40"],
) -> RunPlan:
    """Plan a complete configuration, for micro-batches of that many windows per species."""
    parameters = with_bases(count_parameters(config.model), config)
    return RunPlan(
        config=config,
        layout=layout,
        windows=windows,
        precision=precision,
        parameters=parameters,
        window_work={name: _work(config, {name: 1}) for name in _kinds(config)},
        micro_batch_work=_work(config, windows),
        states=state_bytes(parameters, layout),
        activations=_activations(config, layout, windows, precision, on_gpu),
        accumulation=accumulation,
        traffic=step_traffic(config, layout, windows, precision, accumulation),
        machine=machine,
    )


def _kinds(config: Config) -> list[str]:
    """What a micro-batch may hold: species, which differ in their tracks; or sequences."""
    return list(config.model.species) if isinstance(config.model, ModelConfig) else [SEQUENCES]


def _activations(
    config: Config, layout: Layout, windows: dict[str, int], precision: Precision, on_gpu: bool
) -> Activations:
    if isinstance(config.model, ModelConfig):
        found = activation_bytes(config.model, windows, precision, on_gpu, layout.ep_size)
        of_bases = bases_bytes(config, windows, product_bytes(precision))
        return replace(found, kept=found.kept | of_bases)
    weights = count_parameters(config.model).total
    return encoder_activations(config, windows[SEQUENCES], precision, on_gpu, weights)


def _work(config: Config, windows: dict[str, int]) -> Work:
    if isinstance(config.model, ModelConfig):
        of_bases = bases_flops(config, windows)
        stages = micro_batch_flops(config.model, windows) | of_bases
        executed = micro_batch_flops(config.model, windows, executed=True) | of_bases
        again = recomputed_flops(executed, config.model)
    else:
        stages = executed = encoder_flops(config, windows[SEQUENCES])
        again = executed["attention"].forward / 2  # its kernels compute the logits again
    return Work(
        stages={name: work.forward for name, work in stages.items()},
        forward=forward_flops(stages),
        training=training_flops(stages),
        executed_forward=forward_flops(executed),
        executed_training=training_flops(executed) + again,
    )
