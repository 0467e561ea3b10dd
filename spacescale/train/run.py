"""Assemble one training run from a configuration: data, model, engine, checkpoints, trainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from spacescale.checkpoint import layout
from spacescale.checkpoint.compatibility import check_compatible, lay_out
from spacescale.checkpoint.found import Start, find_start, settle_on
from spacescale.checkpoint.identity import beginning_of
from spacescale.checkpoint.manager import CheckpointManager
from spacescale.config import Config
from spacescale.dataset.loader import Windows
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.run_data import RunData
from spacescale.errors import UserError
from spacescale.files import write_json
from spacescale.metrics import history
from spacescale.model.exports import local_folder
from spacescale.objectives import Objective, TokensObjective, objective_of
from spacescale.parallel import comm
from spacescale.parallel.agreement import require_agreement
from spacescale.parallel.engine import (
    build_engine,
    read_deepspeed_config,
    resolve_deepspeed_config,
)
from spacescale.parallel.expert_groups import resolve_ep_size
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.freezing import freeze
from spacescale.parallel.run_folder import lock_run, remove_markers
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.parallel.watch import Watch
from spacescale.predict.trained_encoder import load_trained_encoder
from spacescale.predict.trained_model import TrainedModel, load_trained
from spacescale.train.initial_encoder import start_from_encoder
from spacescale.train.initial_weights import start_from, with_own_experts
from spacescale.train.only_new import (
    kept_species,
    prove_start,
    prove_unchanged,
    weights_to_keep,
    with_shape_of,
)
from spacescale.train.signals import StopRequest
from spacescale.train.trainable import (
    announce_trainable,
    frozen_rows,
    require_something_to_train,
)
from spacescale.train.trainer import Trainer

MICRO_STEPS_COMPARED = 64
COPIES = {"data": {"paths"}, "mlm": {"vocabulary"}}  # of files, of which each machine may have one

logger = logging.getLogger(__name__)


@dataclass
class PreparedRun:
    """A run ready to train."""

    trainer: Trainer
    first_step: int
    lock: IO[str] | None  # holds the run folder as long as it is open


def prepare(
    config: Config,
    paths: list[Path],
    deepspeed_json: Path,
    output: Path,
    resume: str | None,
    device: torch.device,
    stop: StopRequest,
    watch: Watch,
    init: Path | None = None,
    like: str | None = None,
    own_experts: int | None = None,
) -> PreparedRun:
    """Build everything up to the first step. Called by every rank alike.

    init: weights that a run begins with; one that goes on from a checkpoint has its own. like: the
    species of these weights as which new ones begin. own_experts: how many experts of each block
    every new species gets for itself.

    From the moment that the run begins in its folder, `stop` and `watch` write the end into its
    history.

    Raises UserError, on all ranks alike, for anything in the arguments, data or run folder that
    cannot work.
    """
    if like is not None and init is None:
        raise UserError(f"--like {like}: it says how new species begin from the weights of --init")
    if own_experts is not None and init is None:
        raise UserError(
            f"--own-experts {own_experts}: it says what new species get beside the weights of "
            "--init; without those, set model.own_experts and model.species_num_experts"
        )
    if (like or own_experts or config.optim.only_new) and config.objective == "tokens":
        raise UserError(
            "--like, --own-experts and --only-new add species to SPACE; an encoder of tokens knows "
            "none: leave them out"
        )
    old = comm.on_all(lambda: weights_to_keep(config.optim, init))
    objective, data, deepspeed_config, ep_size = comm.on_all(
        lambda: _resolve(config, paths, deepspeed_json, old, init, own_experts)
    )
    config = objective.config
    require_agreement(
        config.model_dump(mode="json", exclude=COPIES)
        | {
            "species order": list(data.datasets),
            "data manifest": data.manifest_hashes,
            "deepspeed": deepspeed_config,
            "species of the first micro-steps": _species_of_first_micro_steps(data.windows),
        }
    )
    # A run that still ends there may yet save; a folder is made only where nothing is refused.
    lock = comm.on_main_only(lambda: lock_run(output) if output.exists() else None)
    start: Start = comm.on_main(lambda: find_start(output, resume))
    torch.manual_seed(config.run.seed)  # the same weights on every rank, whatever ep_size
    model = objective.build()
    began_with = None
    if init is not None:
        began_with = _initialise(model, data, objective, init, old, like, start.checkpoint)
    lock = comm.on_main_only(lambda: lock or lock_run(output))
    laid_out = lay_out(deepspeed_config, ep_size)
    record, checkpoint = comm.on_main(lambda: _begin(output, start, config, data, laid_out))
    stop.record = watch.record = record

    distribute_experts(model, ep_size)
    synchronise_batchnorm(model)
    frozen = frozen_rows(model, config.optim, old)
    in_part = freeze(model, frozen, device)
    torch.manual_seed(config.run.seed + 1 + comm.rank())  # dropout differs between ranks
    engine = build_engine(model, config.optim, deepspeed_config, undecayed=in_part)
    manager = CheckpointManager(
        output, objective, data, engine, laid_out, model, device, began_with
    )
    comm.on_main(manager.require_room)
    trainer = Trainer(engine, objective, data, manager, output, device, stop, record)
    if old is not None:
        trainer.before_done = partial(prove_unchanged, old, output)
    first_step = trainer.restore(checkpoint) if checkpoint else 0
    comm.on_main(lambda: _write_config(output, config, deepspeed_config, manager.run_id))
    _announce(config, data, output, ep_size, deepspeed_config, first_step)
    announce_trainable(model, config.optim, frozen)
    autocast = deepspeed_config.get("torch_autocast") or {}
    objective.announce(
        model, data.windows, torch.bfloat16 if autocast.get("enabled") else torch.float32
    )
    return PreparedRun(trainer, first_step, lock)


def _initialise(
    model: nn.Module,
    data: RunData,
    objective: Objective,
    init: Path,
    old: TrainedModel | None,
    like: str | None,
    checkpoint: Path | None,
) -> dict[str, Any] | None:
    """Take weights over on every rank alike, or say why not; returns what the run keeps of them.

    old: these weights, where they are to stay.
    """
    if checkpoint is not None:
        logger.info("going on from %s, not from the weights of --init", checkpoint)
        return None

    def take() -> tuple[Path, list[str]]:
        if isinstance(objective, TokensObjective):
            encoder = load_trained_encoder(local_folder(init))
            return encoder.source, start_from_encoder(model, objective.vocabulary, encoder)
        trained = old or load_trained(local_folder(init))
        taken = start_from(model, data.tracks, trained, like)
        return trained.source, taken.lines(objective.config.loss.track_scale)

    source, lines = comm.on_all(take)
    for line in lines:
        logger.info("%s", line)
    if old is not None:
        comm.on_main(lambda: prove_start(old, model))
    return comm.on_main(lambda: beginning_of(init, source))


def _resolve(
    config: Config,
    paths: list[Path],
    deepspeed_json: Path,
    old: TrainedModel | None,
    init: Path | None,
    own_experts: int | None,
) -> tuple[Objective, RunData, dict[str, Any], int]:
    """All that follows from the arguments, the data and the weights to keep, on this rank."""
    datasets = objective_of(config).open(paths)
    if old is not None:
        config = with_shape_of(old, config, datasets)
    config = objective_of(config).complete(datasets)
    if own_experts is not None and init is not None:
        known = old or load_trained(local_folder(init))
        config = with_own_experts(config, known, own_experts)
    objective = objective_of(config)
    require_something_to_train(objective, old)
    ep_size = resolve_ep_size(config.parallel, config.model, comm.world_size())
    deepspeed_config = resolve_deepspeed_config(
        read_deepspeed_config(deepspeed_json),
        str(deepspeed_json),
        config.data.micro_batch_size,
        config.data.global_batch_size,
    )
    micro_batch_size = deepspeed_config["train_micro_batch_size_per_gpu"]
    windows = objective.windows(
        datasets,
        micro_batch_size,
        comm.rank(),
        comm.world_size(),
        deepspeed_config["gradient_accumulation_steps"],
    )
    data = RunData(datasets, windows, config.objective != "profiles", kept_species(old))
    return objective, data, deepspeed_config, ep_size


def _species_of_first_micro_steps(windows: Windows) -> list[dict[str, int]]:
    """What all ranks together read, of which each rank must think the same."""
    return [windows.order.windows_by_species(i) for i in range(MICRO_STEPS_COMPARED)]


def _announce(
    config: Config,
    data: RunData,
    output: Path,
    ep_size: int,
    deepspeed_config: dict[str, Any],
    first_step: int,
) -> None:
    for name, of_species in data.datasets.items():
        if isinstance(of_species, SpeciesData):
            split = ", ".join(f"{n} {s}" for s, n in of_species.manifest.num_windows.items())
            logger.info("%s: %d tracks; windows: %s", name, len(of_species.tracks), split)
    logger.info(
        "preset %s, %s processes, expert parallel %d, ZeRO-%d, %d windows per step, output %s",
        config.preset,
        comm.world_size(),
        ep_size,
        deepspeed_config["zero_optimization"]["stage"],
        deepspeed_config["train_batch_size"],
        output,
    )
    logger.info("steps %d to %d", first_step, config.optim.max_steps)


def _begin(
    output: Path, start: Start, config: Config, data: RunData, laid_out: dict[str, int]
) -> tuple[history.Record, Path | None]:
    """Begin the run in its folder, once it is known that it can go on from its checkpoint.

    That becomes the newest of the folder, if it lies there. From here on a run that was told to go
    back has gone back, even if it is stopped before its first step.
    """
    first_step, checkpoint = 0, start.checkpoint
    if checkpoint is not None:
        state = layout.read_state(checkpoint)
        check_compatible(checkpoint, state, config, data, laid_out)
        first_step = state["step"]
        for problem in start.problems:
            logger.warning("passed over: %s; going on from %s", problem, checkpoint)
        folder = layout.checkpoints_folder(output)
        if checkpoint.resolve().parent == folder.resolve():
            checkpoint = settle_on(folder / checkpoint.resolve().name)
    new = history.new_start(output, first_step, checkpoint, comm.world_size())
    record = history.Record(output, new)
    record.begin()
    remove_markers(output)
    return record, checkpoint


def _write_config(
    output: Path, config: Config, deepspeed_config: dict[str, Any], run_id: str
) -> None:
    payload = {
        "run": run_id,
        "spacescale": config.model_dump(mode="json"),
        "deepspeed": deepspeed_config,
        "world_size": comm.world_size(),
    }
    layout.checkpoints_folder(output).mkdir(parents=True, exist_ok=True)
    write_json(output / layout.CONFIG, payload, indent=1)
