"""Runs of a tiny encoder through the real trainer, and one step of it written out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state
from small_genomes import genome_options, write_fasta
from small_vocabularies import UNION
from stopped_runs import train

from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.probe import Agreement
from spacescale.config import Config
from spacescale.files import write_json
from spacescale.objectives import TokensObjective, objective_of
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.parallel.engine import build_engine, parameter_groups, resolve_deepspeed_config
from spacescale.prepare.genome_dataset import make_genome
from spacescale.train.run import prepare

STEPS, STOPPED_AT = 6, 4
SPECIES = ("moth", "tiny")
SETTINGS = [
    "model.dim=24",
    "model.depth=2",
    "model.heads=2",
    "model.ffn_dim=32",
    "model.dropout=0",  # else each number of processes draws other masks
    "mlm.bpe_bp=120",
    "mlm.kmer_bp=90",
    "mlm.shortest_bp=30",
    "mlm.max_tokens=96",
    "optim.lr=1e-2",
    f"optim.max_steps={STEPS}",
    "optim.warmup_steps=1",
    "data.global_batch_size=8",
    "run.log_every=1",
    "run.valid_every=3",
    "run.save_every=3",
    "run.valid_windows=5",
]


def write_inputs(folder: Path) -> None:
    """Two genomes and the vocabulary of small_vocabularies."""
    fasta = write_fasta(folder / "genome.fa")
    for name in SPECIES:
        make_genome(genome_options(fasta, folder / "data", species=name))
    (folder / "vocab").mkdir()
    UNION.write(folder / "vocab/vocabulary.json", {"species": "none"})


def config_of(folder: Path, *changes: str) -> Config:
    vocabulary = f"mlm.vocabulary={folder / 'vocab'}"
    return build_config("genomics_fm_tiny", [*SETTINGS, vocabulary, *changes])


def run(
    folder: Path,
    name: str,
    *changes: str,
    zero: int = 2,
    stop_at: int | None = None,
    resume: str | None = None,
    init: Path | None = None,
) -> None:
    """Train in folder/name, to the end or up to a step in which a signal comes."""
    json_file = folder / f"{name}-{comm.rank()}.json"
    zero_settings = {"stage": zero, "stage3_param_persistence_threshold": 0}
    write_json(json_file, {"gradient_clipping": 1.0, "zero_optimization": zero_settings})
    stop: Any = SimpleNamespace(signal=None)
    watch: Any = SimpleNamespace()
    places = (json_file, folder / name, resume)
    config = config_of(folder, *changes)
    prepared = prepare(config, [folder / "data"], *places, comm.device(), stop, watch, init)
    train(prepared, stop, stop_at)


def run_all(folder: Path) -> Agreement | None:
    """A run under each ZeRO stage, and one that is stopped and goes on; its export."""
    world = comm.world_size()
    for zero in (1, 2, 3):
        run(folder, f"zero{zero}-{world}", zero=zero)
    run(folder, f"stopped-{world}", zero=3, stop_at=STOPPED_AT)
    run(folder, f"stopped-{world}", zero=3, resume="must")
    source, out = folder / f"stopped-{world}", folder / f"export-{world}"
    return comm.on_main(lambda: convert(source, out))


def completed(folder: Path) -> tuple[TokensObjective, dict[str, Any]]:
    """The objective of a run, and its data."""
    config = config_of(folder)
    datasets = objective_of(config).open([folder / "data"])
    objective = objective_of(objective_of(config).complete(datasets))
    assert isinstance(objective, TokensObjective)
    objective.begin(datasets, torch.device("cpu"))
    return objective, datasets


def first_gradients(folder: Path, zero: int | None) -> dict[str, torch.Tensor]:
    """Adam's first moments after a step: by DeepSpeed, or plainly with `zero` None."""
    objective, datasets = completed(folder)
    optim = objective.config.optim
    torch.manual_seed(0)
    model = objective.build()
    rank, world = comm.rank(), comm.world_size()
    batch = objective.windows(datasets, 8 // world, rank, world, 1)[0]
    if zero is None:
        optimiser = torch.optim.AdamW(parameter_groups(model, optim), lr=optim.lr)
        objective.losses(model, batch, lambda x: x, 0).total.backward()
        optimiser.step()
        return {n: optimiser.state[p]["exp_avg"] for n, p in model.named_parameters()}
    config = {
        "train_micro_batch_size_per_gpu": 8 // world,
        "gradient_clipping": 1e6,
        "zero_optimization": {"stage": zero, "stage3_param_persistence_threshold": 0},
    }
    engine = build_engine(model, optim, resolve_deepspeed_config(config, "tied", 1))
    engine.backward(objective.losses(engine, batch, comm.sum_over_ranks, 0).total)
    engine.step()
    if zero < 3:
        # DeepSpeed links the states in its first group's first step, before the others have any.
        zero_optimiser: Any = engine.optimizer
        zero_optimiser._hp_optimizer_states_linked = False
        zero_optimiser._lazy_init_hp_params_optimizer_state()
    return {
        name: safe_get_full_optimizer_state(parameter, "exp_avg").clone()
        for name, parameter in model.named_parameters()
    }


def all_first_gradients(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    return {zero: first_gradients(folder, zero) for zero in (1, 2, 3)}
