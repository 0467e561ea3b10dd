"""The small training runs of `spacescale selfcheck`: the trainer's own code, on made-up data.

A run is trained, then thrown away and gone on with from one of its checkpoints, in the same or in
another layout of processes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spacescale.checkpoint import layout
from spacescale.checkpoint.partitions import Partitions
from spacescale.config import (
    VALIDATION_LOSS,
    Config,
    DataConfig,
    LossConfig,
    OptimConfig,
    ParallelConfig,
    RunConfig,
)
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.files import write_json
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.mlm_config import MlmConfig
from spacescale.parallel import comm
from spacescale.parallel.engine import read_deepspeed_config, resolve_deepspeed_config
from spacescale.parallel.expert_groups import resolve_ep_size
from spacescale.parallel.run_folder import DONE
from spacescale.parallel.watch import Watch
from spacescale.space_config import ModelConfig
from spacescale.testing.made_up_data import MadeUpWindows
from spacescale.testing.plain_training import TINY_MODEL
from spacescale.tokens.vocabulary import FILE, Vocabulary
from spacescale.train.run import PreparedRun, prepare
from spacescale.train.signals import StopRequest

STEPS, RESUMED_AT = 6, 3
WINDOWS, MAX_ACCUMULATION = 4, 2  # per rank and micro-step, and micro-steps of a step
CLIP = 0.05  # of norms above 0.3: clipping takes part
EXPERTS, BUCKET = 4, 20_000  # at least so many experts; numbers reduced at a time
TRACKS = {"ant": 3, "bee": 3, "cod": 2}  # two alike, whose heads could be mistaken
KMER = 3  # of the encoder's words
LEFT_OUT = {"step", "time"}  # of a record of metrics.jsonl


@dataclass(frozen=True)
class Layout:
    """How a run lies on the ranks, all of which take part."""

    ep_size: int
    zero: int

    def __str__(self) -> str:
        return f"expert parallel {self.ep_size}, ZeRO-{self.zero}"


@dataclass(frozen=True)
class Bench:
    """What all runs of a check have in common. `folder` lies where all ranks see it."""

    folder: Path
    config: Config
    deepspeed: dict[str, Any]
    device: torch.device
    stop: StopRequest
    watch: Watch

    @property
    def layout(self) -> Layout:
        """The layout that the user asked for."""
        ep_size = self.config.parallel.ep_size
        assert ep_size != "auto"
        return Layout(ep_size, self.deepspeed["zero_optimization"]["stage"])

    @property
    def bf16(self) -> bool:
        """Whether training computes in bfloat16."""
        return bool((self.deepspeed.get("torch_autocast") or {}).get("enabled"))

    def config_in(self, lay: Layout) -> Config:
        """That of a run that is laid out so, with the vocabulary that lies in the folder."""
        parallel = ParallelConfig(ep_size=lay.ep_size, max_ep_size=lay.ep_size)
        config = self.config.model_copy(update={"parallel": parallel})
        if config.objective != "tokens":
            return config
        mlm = config.mlm.model_copy(update={"vocabulary": str(self.folder / FILE)})
        return config.model_copy(update={"mlm": mlm})

    def output(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / name

    def checkpoint(self, name: str, step: int) -> Path:
        """The checkpoint of a run after so many steps; there is one of each."""
        return layout.checkpoints_folder(self.output(name)) / layout.step_name(step)

    def logged(self, name: str) -> list[dict[str, float]]:
        """What a run logged of each of its steps, in their order. For rank 0."""
        of_step: dict[int, dict[str, float]] = {}
        for record in read_metrics(self.output(name) / METRICS_FILE):
            numbers = {key: value for key, value in record.items() if key not in LEFT_OUT}
            of_step.setdefault(record["step"], {}).update(numbers)
        return [numbers for _, numbers in sorted(of_step.items())]


def checked_config(user: Config, world: int) -> Config:
    """A tiny model's run by the objective, expert parallelism and recomputation of the user's.

    Raises UserError where the experts cannot be spread so.
    """
    ep_size = resolve_ep_size(user.parallel, user.model, world)
    return Config(
        preset="selfcheck",
        objective=user.objective,
        **(_tiny_encoder() if user.objective == "tokens" else _tiny_space(user, ep_size)),
        optim=OptimConfig(lr=1e-3, max_steps=STEPS, warmup_steps=0),
        data=DataConfig(micro_batch_size=WINDOWS),
        parallel=ParallelConfig(ep_size=ep_size, max_ep_size=ep_size),
        run=RunConfig(
            log_every=1,
            valid_every=STEPS,
            save_every=1,
            keep_last=STEPS + 1,
            best_metric=VALIDATION_LOSS,
        ),
    )


def _tiny_space(user: Config, ep_size: int) -> dict[str, Any]:
    """SPACE with several experts for each process; hidden bases, if any, count in every step."""
    joint = {"schedule": "joint"} if user.objective == "profiles+bases" else {}
    return {
        "model": ModelConfig(
            **TINY_MODEL,
            species_num_experts=-(-EXPERTS // ep_size) * ep_size,
            species_top_k=2,
            checkpoint_stages=user.space.checkpoint_stages,
        ),
        "loss": LossConfig(mi_weight=0.1, z_weight=0.01, cv_weight=0.05),
        "bases": user.bases.model_copy(update=joint),
    }


def _tiny_encoder() -> dict[str, Any]:
    """An encoder of short words, without dropout. Where they are written is known later."""
    return {
        "model": EncoderConfig(dim=24, depth=2, heads=2, ffn_dim=48, dropout=0.0),
        "mlm": MlmConfig(
            vocabularies=("kmer",), kmer_span=6, kmer_bp=64, bpe_bp=64, shortest_bp=32
        ),
    }


def checked_deepspeed_config(path: Path, user: DataConfig) -> dict[str, Any]:
    """The user's settings of DeepSpeed, with a batch, clipping and buckets for the tiny model.

    Raises UserError as training would.
    """
    config = read_deepspeed_config(path)
    resolved = resolve_deepspeed_config(
        config, str(path), user.micro_batch_size, user.global_batch_size
    )
    resolved |= {
        "train_micro_batch_size_per_gpu": WINDOWS,
        "gradient_accumulation_steps": min(
            resolved["gradient_accumulation_steps"], MAX_ACCUMULATION
        ),
        "gradient_clipping": CLIP,
    }
    del resolved["train_batch_size"]
    # As in a large run, gradients come in several buckets and ZeRO-3 keeps no weight whole.
    resolved["zero_optimization"] |= {
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": 0,
    }
    return resolved


def other_layout(own: Layout, world: int, experts: int) -> Layout:
    """Another ZeRO stage, and another EP size where the number of ranks allows one."""
    sizes = [n for n in range(1, experts + 1) if world % n == 0 and experts % n == 0]
    others = [n for n in sizes if n != own.ep_size]
    return Layout(min(others, default=own.ep_size), own.zero % 3 + 1)


def write_data(bench: Bench) -> None:
    """Make the data sets, and words for an encoder, anew. All ranks call it together."""
    comm.on_main(lambda: _write_data(bench))


def _write_data(bench: Bench) -> None:
    shutil.rmtree(bench.folder, ignore_errors=True)
    shape = ModelConfig(**TINY_MODEL)
    for seed, (name, tracks) in enumerate(TRACKS.items()):
        made_up = MadeUpWindows(
            64, shape.target_length, tracks, shape.seq_length, shape.bin_size, seed=seed
        )
        made_up.write(bench.folder / "data" / name)
    Vocabulary(("kmer",), KMER, None).write(bench.folder / FILE, {})


def start(bench: Bench, name: str, lay: Layout) -> PreparedRun:
    """A run with fresh weights, named and laid out so. All ranks call it together."""
    zero = bench.deepspeed["zero_optimization"] | {"stage": lay.zero}
    settings = bench.folder / f"{name}.json"
    comm.on_main(lambda: write_json(settings, bench.deepspeed | {"zero_optimization": zero}))
    with _silence():
        run = prepare(
            bench.config_in(lay),
            [bench.folder / "data"],
            settings,
            bench.output(name),
            None,
            bench.device,
            bench.stop,
            bench.watch,
        )
    bench.watch.follow(run.trainer.engine)
    return run


def train(bench: Bench, name: str, run: PreparedRun, first: int = 0) -> None:
    """Train to the last step. Raises UserError where a signal ends it before."""
    with _silence():
        run.trainer.fit(first)
    comm.on_main(lambda: _require_done(bench.output(name)))


def _require_done(output: Path) -> None:
    if not (output / DONE).exists():
        raise UserError("stopped by a signal before all was checked")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What a run of its own would say is no news here."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@torch.no_grad()
def scramble(run: PreparedRun) -> None:
    """Spoil all that a checkpoint restores: weights, moments, buffers and random state."""
    torch.manual_seed(4321 + comm.rank())
    model = run.trainer.engine.module
    for tensor in (*model.parameters(), *model.buffers()):  # pyright: ignore[reportAttributeAccessIssue]
        if tensor.is_floating_point():
            tensor.uniform_()
    for piece in Partitions(run.trainer.engine).pieces():
        for field in piece.fields.values():
            field.uniform_()


def go_on(bench: Bench, origin: str, name: str, lay: Layout) -> None:
    """Another run, that goes on in a layout from a checkpoint of `origin`, and to the end."""
    run = start(bench, name, lay)
    scramble(run)
    with _silence():
        first = run.trainer.restore(bench.checkpoint(origin, RESUMED_AT))
    train(bench, name, run, first)
    throw_away(bench, run)


def throw_away(bench: Bench, run: PreparedRun) -> None:
    """Let go of the engine and of the run's folder."""
    run.trainer.engine.destroy()
    bench.stop.record = bench.watch.record = None
    if run.lock is not None:
        run.lock.close()
