"""Small runs that add a species to trained weights, or train some parameters only."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from elastic_runs import SETTINGS
from small_datasets import small_targets, write_small_dataset

from spacescale.files import write_json
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.train.run import prepare

STEPS, SAVED_AT = 4, 2
FROZEN = ("stem", "transformer.0.moe.mixture", "*.norm.bias")
FACTORS = '{"heads": 10, "conv_tower": 0.1}'


@dataclass(frozen=True)
class Run:
    """A run of two processes in a folder of its own, from other weights or a checkpoint."""

    name: str
    data: tuple[str, ...]
    ep_size: int = 2
    zero: int = 2
    init: str | None = None
    origin: str | None = None
    settings: tuple[str, ...] = ()
    own_experts: int | None = None


OLD = Run("old", ("finch", "moth"))
ADDED = [
    Run(f"added-{zero}", ("perch",), ep, zero, init="old", settings=("optim.only_new=true",))
    for zero, ep in ((1, 1), (2, 2), (3, 2))
]
OWN = [replace(run, name=f"own-{run.zero}", own_experts=2) for run in ADDED]
FROZEN_SETTINGS = (f"optim.freeze={list(FROZEN)}".replace("'", '"'), f"optim.lr_factors={FACTORS}")
PARTLY = [
    Run(f"partly-{zero}", ("finch", "moth"), ep, zero, settings=FROZEN_SETTINGS)
    for zero, ep in ((1, 2), (2, 1), (3, 2))
]


def going_on(run: Run, like: Run) -> Run:
    """From the middle of a run, laid out as another."""
    name = f"{run.name}-as-{like.name}"
    return replace(run, name=name, ep_size=like.ep_size, zero=like.zero, origin=run.name)


RESUMED = [going_on(ADDED[1], ADDED[1]), going_on(PARTLY[2], PARTLY[1])]
RUNS = [OLD, ADDED[1], OWN[1], PARTLY[2], *RESUMED]
MORE_RESUMED = [
    going_on(run, like)
    for run, like in [
        (ADDED[0], ADDED[1]),
        (ADDED[1], ADDED[2]),
        (ADDED[2], ADDED[2]),
        (OWN[0], OWN[1]),
        (OWN[1], OWN[0]),
        (OWN[2], OWN[2]),
        (PARTLY[0], PARTLY[0]),
        (PARTLY[1], PARTLY[1]),
        (PARTLY[1], PARTLY[0]),
        (PARTLY[2], PARTLY[2]),
    ]
]


def write_data(folder: Path) -> None:
    """Perch alone has the assay chip, which comes before that of the others."""
    for i, (name, tracks) in enumerate({"finch": 3, "moth": 2, "perch": 3}.items()):
        targets = np.ascontiguousarray(small_targets(i)[..., :tracks])
        assay = "chip" if name == "perch" else "dnase_atac"
        write_small_dataset(folder / name, targets, assay=assay)


def train(folder: Path, run: Run) -> None:
    settings = [
        *(setting for setting in SETTINGS if "species_importance" not in setting),
        *run.settings,
        f"parallel.ep_size={run.ep_size}",
        f"optim.max_steps={STEPS}",
        f"run.save_every={SAVED_AT}",
        "optim.lr=1e-2",
    ]
    zero = {"stage": run.zero, "stage3_param_persistence_threshold": 500}
    json_file = folder / f"{run.name}-{comm.rank()}.json"
    write_json(json_file, {"gradient_clipping": 0.2, "zero_optimization": zero})
    origin = run.origin and str(folder / run.origin / f"checkpoints/step-{SAVED_AT:08d}")
    stop: Any = SimpleNamespace(signal=None)
    watch: Any = SimpleNamespace()
    prepared = prepare(
        build_config("space_demo", settings),
        [folder / "data" / name for name in run.data],
        *(json_file, folder / run.name, origin, comm.device(), stop, watch),
        init=run.init and folder / run.init,
        own_experts=run.own_experts,
    )
    prepared.trainer.fit(prepared.first_step)


def train_all(folder: Path, runs: list[Run]) -> None:
    for run in runs:
        train(folder, run)
