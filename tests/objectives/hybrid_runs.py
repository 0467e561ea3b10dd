"""Small runs of profiles, and of profiles with hidden bases, through the real trainer."""

import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from spacescale.checkpoint import layout
from spacescale.checkpoint.convert import convert
from spacescale.checkpoint.probe import Agreement
from spacescale.files import read_json, write_json
from spacescale.overrides import build_config
from spacescale.parallel import comm
from spacescale.train.run import prepare

STEPS, STOPPED_AT = 6, 3
SETTINGS = [
    "model.seq_length=192", "model.target_length=8", "model.num_downsamples=4", "model.dim=48",
    "model.dim_divisible_by=8", "model.depth=1", "model.heads=2", "model.attn_dim_key=8",
    "model.tracks_num_experts=4", "model.dropout=0.1", "data.global_batch_size=4",
    "data.micro_batch_size=2", f"optim.max_steps={STEPS}", "optim.warmup_steps=1", "optim.lr=3e-3",
    "run.log_every=1", "run.valid_every=3", "run.save_every=3", "run.valid_windows=6",
]  # fmt: skip
HYBRID = [*SETTINGS, "objective=profiles+bases", "bases.head_width=8", "bases.rate=0.3"]
OFF = [*HYBRID, "bases.schedule=joint", "bases.mask_windows=0", "bases.weight=0",
       "bases.final_weight=0"]  # fmt: skip
JOINT = [*HYBRID, "bases.untracked=0.25", "bases.batchnorm=apart"]
# Without dropout, which differs between ranks; and most micro-steps of a rank have no mask.
FEW = [*HYBRID, "model.dropout=0", "model.attn_dropout=0", "model.pos_dropout=0",
       "bases.schedule=joint", "bases.mask_windows=0.3", "parallel.max_ep_size=1",
       "data.micro_batch_size=4"]  # fmt: skip
# Profiles are scored as if at random while bases count alone, in the first three steps; then a
# second validation that is not better ends the run before its last step.
PATIENT = [*HYBRID, "bases.first_share=0.5", "run.patience=1", "run.valid_every=1",
           "run.save_every=1"]  # fmt: skip
BORDER, ENDED_AT = 3, 5
SCORES = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.2, 5: 0.1}  # step → of its validation


def run(
    folder: Path,
    name: str,
    settings: list[str],
    stop_at: int | None = None,
    resume: str | None = None,
    init: Path | None = None,
    zero: int = 2,
    scores: Mapping[int, float] | None = None,
) -> None:
    """Train in folder/name, to the end or up to a step in which a signal comes.

    scores: of profiles, made up for the validation after each step.
    """
    json_file = folder / f"{name}-{comm.rank()}.json"
    write_json(json_file, {"gradient_clipping": 0.2, "zero_optimization": {"stage": zero}})
    config = build_config("space_demo", settings)
    stop: Any = SimpleNamespace(signal=None)
    watch: Any = SimpleNamespace()
    places = (json_file, folder / name, resume)
    prepared = prepare(config, [folder / "data"], *places, comm.device(), stop, watch, init)
    objective, record = prepared.trainer.objective, prepared.trainer.record
    honest, validate = objective.losses, objective.validate

    def watched(*args: Any):
        if record.step + 1 == stop_at:
            stop.signal = signal.SIGTERM
        return honest(*args)

    def made_up(*args: Any):
        if scores is None:
            return validate(*args)
        return {"valid/pearson_log1p": scores[record.step], "valid/loss/finch": 0.5,
                "valid/bases/perplexity": 4.0}  # fmt: skip

    with patch.object(objective, "losses", watched), patch.object(objective, "validate", made_up):
        prepared.trainer.fit(prepared.first_step)
    prepared.trainer.engine.destroy()
    if prepared.lock is not None:
        prepared.lock.close()


def one_process(folder: Path) -> list[Agreement | None]:
    """Profiles; hybrid with nothing hidden; hybrid, whole and stopped; from profiles; exports."""
    run(folder, "profiles", SETTINGS)
    run(folder, "off", OFF)
    run(folder, "joint", JOINT)
    run(folder, "stopped", JOINT, STOPPED_AT)
    run(folder, "stopped", JOINT, resume="must")
    run(folder, "first", [*HYBRID, "bases.schedule=first", "bases.first_share=0.5"])
    run(folder, "from_profiles", OFF, init=folder / "profiles")
    run(folder, "few-1", FEW)
    impatient(folder)
    outs = (("for_use", False), ("whole", True))
    return [convert(folder / "joint", folder / out, whole=whole) for out, whole in outs]


def impatient(folder: Path) -> None:
    """A run with little patience, whole, stopped where profiles begin, and from an old checkpoint.

    That is one of before it was known which scores are trained, and where bases alone end.
    """
    run(folder, "patient", PATIENT, scores=SCORES)
    for name, step in (("patient_stopped", BORDER), ("patient_old", BORDER - 1)):
        run(folder, name, PATIENT, step, scores=SCORES)
    old = folder / "patient_old/checkpoints" / layout.step_name(BORDER - 1)
    state = read_json(old / layout.STATE)
    del state["config"]["bases"]["first_steps"]
    state["best_score"], state["validation_watch"]["not_better"] = 0.9, 1
    write_json(old / layout.STATE, state)
    layout.write_manifest(old)
    for name in ("patient_stopped", "patient_old"):
        run(folder, name, PATIENT, resume="must", scores=SCORES)


def two_processes(folder: Path) -> None:
    """What one process did with twice the micro-batch: at two ZeRO stages, and experts shared."""
    few = [*FEW, "data.micro_batch_size=2"]
    for zero in (2, 3):
        run(folder, f"few-2-zero{zero}", few, zero=zero)
    run(folder, "few-2-experts", [*few, "parallel.ep_size=2", "parallel.max_ep_size=2"])
