"""Saving a model of about 1 GB of weights and optimiser state: how long training waits for it.

    python benchmarks/checkpoint.py [--turns 5] [--ranks 1 4] [--folder /on/the/disk] [--update]

Side by side in one process group, in an order that changes from turn to turn: saving beside
training, saving while training waits, the way of version 0.1 (all wait; rank 0 hashes the files of
all ranks alone; every save answers the probe), and `torch.save` with fsync of the same tensors,
each rank its own. Medians, in seconds per 10⁹ bytes. --update writes the table into README.md.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from readme_tables import update_readme
from safetensors.torch import save_file

from spacescale.checkpoint import layout
from spacescale.checkpoint.compatibility import lay_out
from spacescale.checkpoint.manager import CheckpointManager
from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import name_pieces
from spacescale.checkpoint.probe import probe_tensors, take_probe
from spacescale.config import Config, RunConfig
from spacescale.files import files_below, sha256, sync
from spacescale.genome.tracks import Track
from spacescale.model.space import Space
from spacescale.objectives import objective_of
from spacescale.parallel import comm
from spacescale.parallel.engine import build_engine, resolve_deepspeed_config
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm
from spacescale.space_config import ModelConfig
from spacescale.testing.ranks import run_ranks

MODEL = ModelConfig(
    species={"human": ("DNASE", "CAGE"), "mouse": ("CHIP",)},
    seq_length=2048,
    target_length=16,
    dim=768,
    depth=6,
    heads=8,
    attn_dim_key=64,
    tracks_num_experts=4,
)
BEGIN, END = "<!-- checkpoint.py: begin -->", "<!-- checkpoint.py: end -->"
BESIDE, WAITING, BEFORE, TORCH = "beside training", "waiting", "version 0.1", "torch.save, fsync"


@dataclass
class Run:
    """A model in its engine, and the managers that save it beside training and waiting."""

    model: Space
    engine: Any
    beside: CheckpointManager
    waiting: CheckpointManager
    folder: Path


def start(folder: Path, settings: ModelConfig = MODEL, ep_size: int = 1) -> Run:
    """The model, with Adam's moments filled."""
    torch.manual_seed(0)
    model = Space(settings)
    distribute_experts(model, ep_size)
    synchronise_batchnorm(model)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.2,
        "zero_optimization": {"stage": 2},
    }
    runs = [RunConfig(save_in_background=here, keep_last=1) for here in (True, False)]
    configs = [Config(model=settings, run=run) for run in runs]
    resolved = resolve_deepspeed_config(config, "benchmark", 1)
    engine = build_engine(model, configs[0].optim, resolved)
    for piece in Partitions(engine).pieces():
        for numbers in piece.fields.values():
            numbers.uniform_(0.1, 1)
    names = list(settings.species)
    data: Any = SimpleNamespace(
        tracks={
            name: [
                Track(row, f"{name}{row}", "made.bw", row, assay=assay)
                for row, assay in enumerate(kinds)
            ]
            for name, kinds in settings.species.items()
        },
        manifest_hashes=dict.fromkeys(names, ""),
        split_hashes=dict.fromkeys(names, ""),
        transforms=dict.fromkeys(names, ""),
    )
    laid_out, cpu = lay_out(resolved, ep_size), torch.device("cpu")
    beside, waiting = (
        CheckpointManager(folder / name, objective_of(config), data, engine, laid_out, model, cpu)
        for name, config in zip(("beside", "waiting"), configs, strict=True)
    )
    return Run(model, engine, beside, waiting, folder)


def save(manager: CheckpointManager, turn: int) -> tuple[float, float]:
    """Seconds that training waits, and seconds until the checkpoint is complete."""
    began = time.perf_counter()
    manager.save(turn, {}, 0.0, False, with_probe=False)
    stall = time.perf_counter() - began
    manager.finish()
    total = time.perf_counter() - began
    return (stall if manager.config.run.save_in_background else total), total


def save_as_before(run: Run, turn: int) -> tuple[float, float]:
    """What version 0.1 did, which no longer stands in the package."""
    began = time.perf_counter()
    folder = run.folder / f"before-{turn}"
    comm.on_main(lambda: folder.mkdir())
    tensors = {
        name: tensor.to("cpu", copy=True)
        for name, tensor in name_pieces(Partitions(run.engine).pieces()).items()
    }
    comm.on_all(lambda: save_file(tensors, folder / f"state-{comm.rank():05d}.safetensors"))
    probe = take_probe(run.model, run.beside.objective, torch.device("cpu"))
    comm.on_main(lambda: _complete_as_before(folder, run.model, probe_tensors(probe)))
    took = time.perf_counter() - began
    comm.on_main(lambda: shutil.rmtree(folder))
    return took, took


def _complete_as_before(folder: Path, model: Space, probe: dict[str, torch.Tensor]) -> None:
    parameters = {name for name, _ in model.named_parameters()}
    buffers = {name: t for name, t in model.state_dict().items() if name not in parameters}
    save_file(buffers, folder / "buffers.safetensors")
    save_file(probe, folder / "probe.safetensors")
    for path in files_below(folder):
        sync(path)
        sha256(path)


def save_by_torch(run: Run, turn: int) -> tuple[float, float]:
    """Each rank its own tensors, all at the same time."""
    path = run.folder / f"torch-{turn}-{comm.rank()}"
    tensors = {
        name: tensor.clone()  # else torch would store all of the memory that a slice is of
        for name, tensor in name_pieces(Partitions(run.engine).pieces()).items()
    }
    comm.gather(None)  # wait for all
    began = time.perf_counter()
    with path.open("wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())
    comm.gather(None)  # wait for all
    took = time.perf_counter() - began
    path.unlink()
    return took, took


def measure(folder: Path, turns: int) -> dict[str, Any]:
    """On every rank: stalls and totals of each way, reading, and the size."""
    run = start(folder)
    ways: dict[str, Callable[[int], tuple[float, float]]] = {
        BESIDE: lambda turn: save(run.beside, turn),
        WAITING: lambda turn: save(run.waiting, turn),
        BEFORE: lambda turn: save_as_before(run, turn),
        TORCH: lambda turn: save_by_torch(run, turn),
    }
    times = defaultdict(list)
    for turn in range(1, turns + 1):
        names = list(ways)
        shift = turn % len(names)
        for name in [*names[shift:], *names[:shift]][:: -1 if turn % 2 else 1]:
            comm.gather(None)  # wait for all
            times[name].append(ways[name](turn))
    checkpoint = layout.checkpoints_folder(folder / "beside") / layout.step_name(turns)
    verifying, resuming = [], []
    for _ in range(turns):
        comm.gather(None)  # wait for all
        began = time.perf_counter()
        comm.on_main(lambda: layout.verify(checkpoint))
        verifying.append(time.perf_counter() - began)
        run.beside.load(checkpoint)
        resuming.append(time.perf_counter() - began)
    size = sum(path.stat().st_size for path in files_below(checkpoint))
    return {"times": dict(times), "verifying": verifying, "resuming": resuming, "size": size}


def table(measured: dict[int, dict[str, Any]]) -> list[str]:
    """One line per number of ranks and way: medians of seconds per 10⁹ bytes, and their ratios."""
    lines = [
        "| ranks | way | training waits, s/GB | complete after, s/GB | waits, of version 0.1 | "
        "complete, of torch.save |",
        "|---|---|---|---|---|---|",
    ]
    for ranks, found in measured.items():
        per_gb = 1e9 / found["size"]
        medians = {
            way: [statistics.median(column) for column in zip(*times, strict=True)]
            for way, times in found["times"].items()
        }
        for way, (stall, total) in medians.items():
            lines.append(
                f"| {ranks} | {way} | {stall * per_gb:.2f} | {total * per_gb:.2f} | "
                f"{stall / medians[BEFORE][0]:.0%} | {total / medians[TORCH][1]:.2f}× |"
            )
    lines += [
        "",
        "| ranks | size, GB | verifying, s/GB | resuming, verified, s/GB |",
        "|---|---|---|---|",
    ]
    for ranks, found in measured.items():
        per_gb = 1e9 / found["size"]
        seconds = (statistics.median(found[name]) * per_gb for name in ("verifying", "resuming"))
        lines.append(
            f"| {ranks} | {found['size'] / 1e9:.2f} | {' | '.join(f'{s:.2f}' for s in seconds)} |"
        )
    return lines


def main() -> None:
    """Measure, print, and write the table where it is wanted."""
    parser = argparse.ArgumentParser(description="Measure saving and resuming.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--update", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    measured = {}
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            results = run_ranks(measure, ranks, Path(folder), args.turns, timeout_s=7200)
        measured[ranks] = results[0]
        print(ranks, results[0], flush=True)
    lines = table(measured)
    print(*lines, sep="\n")
    if args.update:
        update_readme(BEGIN, END, lines)


if __name__ == "__main__":
    main()
