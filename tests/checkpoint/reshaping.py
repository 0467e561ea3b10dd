"""One small run in any layout of processes: trained, saved, and gone on with in another layout.

Every layout sees the same windows in the same steps.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from checkpoints import MODEL
from no_data import no_data
from torch import Tensor

from spacescale.checkpoint.compatibility import check_compatible, lay_out
from spacescale.checkpoint.found import list_checkpoints, require_sound
from spacescale.checkpoint.layout import read_state, verify
from spacescale.checkpoint.manager import CheckpointManager
from spacescale.checkpoint.partitions import Partitions
from spacescale.config import Config, LossConfig, OptimConfig
from spacescale.errors import UserError
from spacescale.model.losses import training_losses
from spacescale.model.space import Space
from spacescale.objectives import objective_of
from spacescale.parallel import comm
from spacescale.parallel.engine import Engine, build_engine, resolve_deepspeed_config
from spacescale.parallel.expert_parallel import distribute_experts
from spacescale.parallel.sync_batchnorm import synchronise_batchnorm

NO_DROPOUT = {"dropout": 0.0, "attn_dropout": 0.0, "pos_dropout": 0.0}
CONFIG = Config(
    model=MODEL.model_copy(update=NO_DROPOUT),
    optim=OptimConfig(lr=3e-4),
    loss=LossConfig(mi_weight=0.1, z_weight=0.01, cv_weight=0.05),
)
WINDOWS = 4  # of each species, over all ranks
WORLDS = (1, 2, 4)
SAVED_AT = 3  # steps; each run goes on for as many more as its test asks for


@dataclass(frozen=True, order=True)
class Layout:
    """Number of processes, expert parallelism, ZeRO stage."""

    world: int
    ep_size: int
    zero: int

    def __str__(self):
        return f"world{self.world}-ep{self.ep_size}-zero{self.zero}"


LAYOUTS = [
    Layout(world, ep_size, zero)
    for world in WORLDS
    for ep_size in (1, 2, 4)
    if world % ep_size == 0
    for zero in (1, 2, 3)
]


@dataclass
class Run:
    """A model in its engine, and what saves and restores it."""

    model: Space
    engine: Engine
    manager: CheckpointManager


def start(output: Path, layout: Layout, seed: int = 20, beside: bool = True) -> Run:
    """A fresh run of this layout. `seed` makes the weights; beside: it saves beside training."""
    torch.manual_seed(seed)
    model = Space(CONFIG.model)
    distribute_experts(model, layout.ep_size)
    synchronise_batchnorm(model)
    config = {
        "train_micro_batch_size_per_gpu": 2 * WINDOWS // layout.world,
        "gradient_clipping": 0.2,
        # some parameters are shared out between steps, others kept whole
        "zero_optimization": {"stage": layout.zero, "stage3_param_persistence_threshold": 500},
    }
    resolved = resolve_deepspeed_config(config, "reshaping", 1)
    engine = build_engine(model, CONFIG.optim, resolved)
    torch.manual_seed(seed + 1 + comm.rank())
    data = no_data(CONFIG.model.species)
    device = torch.device("cpu")
    run = CONFIG.run.model_copy(update={"save_in_background": beside})
    saved = CONFIG.model_copy(update={"run": run})
    laid_out = lay_out(resolved, layout.ep_size)
    objective = objective_of(saved)
    manager = CheckpointManager(output, objective, data, engine, laid_out, model, device)
    return Run(model, engine, manager)


def windows(step: int) -> dict[str, tuple[Tensor, Tensor]]:
    """This rank's codes and targets in a step."""
    found = {}
    for i, (name, assays) in enumerate(CONFIG.model.species.items()):
        generator = torch.Generator().manual_seed(1000 * step + i)
        codes = torch.randint(0, 4, (WINDOWS, CONFIG.model.seq_length), generator=generator)
        shape = (WINDOWS, CONFIG.model.target_length, len(assays))
        targets = 4 * torch.rand(shape, generator=generator)
        mine = slice(comm.rank(), None, comm.world_size())
        found[name] = (codes.to(torch.uint8)[mine], targets[mine])
    return found


def train(run: Run, first: int, stop: int) -> list[float]:
    """The losses of these steps, means over ranks."""
    losses = []
    for step in range(first, stop):
        here = windows(step)
        output = run.engine({name: codes for name, (codes, _) in here.items()})
        targets = {name: t for name, (_, t) in here.items()}
        terms = training_losses(output, targets, CONFIG.loss, comm.sum_over_ranks)
        total = torch.stack(list(terms.values())).sum()
        run.engine.backward(total)
        run.engine.step()
        losses.append(float(comm.add_over_ranks(total.detach())) / comm.world_size())
    return losses


def save(run: Run, step: int) -> None:
    run.manager.save(step, {}, 0.0, False, with_probe=True)
    run.manager.finish()


def checkpoint(folder: Path, run: object, step: int = SAVED_AT) -> Path:
    return folder / str(run) / f"checkpoints/step-{step:08d}"


def save_and_train(run: Run, steps: int) -> list[float]:
    """Save, train on, save again: the losses in between."""
    save(run, SAVED_AT)
    losses = train(run, SAVED_AT, SAVED_AT + steps)
    save(run, SAVED_AT + steps)
    return losses


def sources(folder: Path, layouts: list[Layout], steps: int) -> dict[Layout, list[float]]:
    """Runs that are never stopped, in the layouts of this number of processes."""
    losses = {}
    for layout in layouts:
        if layout.world == comm.world_size():
            run = start(folder / str(layout), layout)
            train(run, 0, SAVED_AT)
            losses[layout] = save_and_train(run, steps)
    return losses


def load(run: Run, origin: Path) -> dict:
    """As a run goes on: from a checkpoint that was found sound and compatible."""
    manager = run.manager

    def check() -> None:
        require_sound(origin)
        state = read_state(origin)
        check_compatible(origin, state, manager.config, manager.data, manager.laid_out)

    comm.on_main(check)
    return manager.load(origin)


def resumed(folder: Path, origin: str, layout: Layout, steps: int) -> dict:
    """Go on from the checkpoint of another run, with other weights to begin with."""
    run = start(folder / f"{origin}-to-{layout}", layout, seed=1)
    state = load(run, checkpoint(folder, origin))
    random = torch.get_rng_state()
    losses = save_and_train(run, steps)
    adam_step = Partitions(run.engine).adam_step()
    return {"step": state["step"], "adam_step": adam_step, "losses": losses, "random": random}


def go_on(
    folder: Path, pairs: list[tuple[str, Layout]], damaged: list[str], steps: int
) -> tuple[dict[tuple[str, Layout], dict], dict[str, str]]:
    """The pairs (origin, layout) of this number of processes, and the refusals of one process."""
    here = [pair for pair in pairs if pair[1].world == comm.world_size()]
    found = {pair: resumed(folder, *pair, steps) for pair in here}
    return found, refusals(folder, damaged) if comm.world_size() == 1 else {}


def refusals(folder: Path, origins: list[str]) -> dict[str, str]:
    """What is said to damaged checkpoints, none of which may change the weights."""
    run = start(folder / "refusing", Layout(1, 1, 1))
    before = [p.detach().clone() for p in run.model.parameters()]
    found = {}
    for origin in origins:
        try:
            load(run, checkpoint(folder, origin))
        except UserError as error:
            found[origin] = str(error)
    assert all(map(torch.equal, before, run.model.parameters()))
    return found | {"poisoned": refused_save(folder / "poisoned")}


def refused_save(output: Path) -> str:
    """What is said when statistics are not finite; the last clean checkpoint must stay."""
    run = start(output, Layout(1, 1, 1))
    save(run, SAVED_AT)
    run.model.stem[1].block[0].running_var[0] = torch.inf  # pyright: ignore
    said = ""
    try:
        save(run, SAVED_AT + 1)
    except UserError as error:
        said = str(error)
    assert [path.name for path in list_checkpoints(output / "checkpoints")] == ["step-00000003"]
    verify(output / "checkpoints/step-00000003")
    # A save that lands on another line's checkpoint sets it aside.
    theirs = read_state(output / "checkpoints/step-00000003")["lineage"]
    run = start(output, Layout(1, 1, 1))
    save(run, SAVED_AT)
    aside = output / "checkpoints/step-00000003.aside-1"
    assert read_state(aside)["lineage"] == theirs != run.manager.lineage
    assert read_state(output / "checkpoints/step-00000003")["lineage"] == run.manager.lineage
    return said
