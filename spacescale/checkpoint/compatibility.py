"""Whether a run can go on from a checkpoint: settings, species, data and layout of both."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spacescale.bases_config import first_steps
from spacescale.checkpoint import layout
from spacescale.config import Config, LossConfig, RunConfig
from spacescale.dataset.run_data import RunData
from spacescale.dataset.species_genome import same_splits
from spacescale.errors import UserError
from spacescale.objectives import objective_of
from spacescale.parallel import comm

# What a resumed run may change without a word, and what it may change but hears about. Everything
# else shapes the model, the optimiser's state or the order of the data.
FREE_SETTINGS = {
    ("data", "paths"),
    ("data", "num_workers"),
    ("data", "on_damaged"),
    ("data", "micro_batch_size"),  # windows per step are compared instead …
    ("data", "global_batch_size"),  # … of these two
    ("model", "checkpoint_stages"),
    ("mlm", "vocabulary"),  # wherever it lies: its content is compared
    ("bases", "first_steps"),  # not known to earlier versions: what it comes to is compared
    *(("run", name) for name in RunConfig.model_fields if name != "seed"),
}
CHANGEABLE_SETTINGS = {
    # Not the scale on which the model predicts.
    *(("loss", name) for name in LossConfig.model_fields if name != "track_scale"),
    *(
        ("bases", name)
        for name in ("weight", "final_weight", "repeat_weight", "masked_profile_weight")
    ),
    *(
        ("optim", name)
        for name in (
            "lr",
            "lr_factors",
            "max_steps",
            "warmup_steps",
            "schedule",
            "final_lr_fraction",
        )
    ),
}

logger = logging.getLogger(__name__)


def lay_out(deepspeed_config: Mapping[str, Any], ep_size: int) -> dict[str, int]:
    """How processes, experts, optimiser state and windows lie; the configuration is resolved."""
    return {
        "world_size": comm.world_size(),
        "ep_size": ep_size,
        "zero_stage": deepspeed_config["zero_optimization"]["stage"],
        "micro_batch_size": deepspeed_config["train_micro_batch_size_per_gpu"],
        "gradient_accumulation_steps": deepspeed_config["gradient_accumulation_steps"],
    }


def check_compatible(
    checkpoint: Path, state: dict[str, Any], config: Config, data: RunData, laid_out: dict[str, int]
) -> None:
    """Refuse a checkpoint that this run cannot go on from; say what it changes.

    state: the checkpoint's. laid_out: how this run lies (`lay_out`).
    """
    if (version := state.get("format_version")) != layout.VERSION:
        raise UserError(
            f"{checkpoint}: format version {version}, of a run whose windows came in another "
            "order; finish it with the spacescale that wrote it. Its weights can be converted"
        )
    saved = layout.read_config(checkpoint, state)
    if saved.objective != config.objective:
        raise UserError(
            f"{checkpoint}: objective was {saved.objective}, is now {config.objective}; resume "
            "with the same"
        )
    _check_names(checkpoint, state["data_manifests"], data.manifest_hashes)
    objective_of(config).require_same(checkpoint, saved)
    _check_settings(checkpoint, saved, config)
    _check_first_steps(checkpoint, saved, config)
    for name, now in data.manifest_hashes.items():
        before = state["data_manifests"].get(name, "none")
        if before != now:
            splits = _compare_splits(
                layout.data_splits(state).get(name), data.split_hashes.get(name)
            )
            raise UserError(
                f"{checkpoint}: the data set of {name!r} is not the one it was trained on "
                f"(manifest {_short(before)}, now {_short(now)}){splits}; "
                "resume with the same, or start anew with another --output"
            )
    _check_layout(checkpoint, state["layout"], laid_out)


def _compare_splits(saved: str | None, now: str | None) -> str:
    """Say what the split hashes of two data sets tell about them."""
    if saved is None or now is None:
        return ""
    if same_splits(saved, now):
        return "; windows and splits are the same, their contents are not"
    return "; the splits differ, so that windows held out now may have been trained on"


def _check_layout(checkpoint: Path, saved: dict[str, int], now: dict[str, int]) -> None:
    """Refuse another number of windows per step; say what else is laid out differently."""
    if saved == now:
        return
    before, after = (
        lay["world_size"] * lay["micro_batch_size"] * lay["gradient_accumulation_steps"]
        for lay in (saved, now)
    )
    if before != after:
        raise UserError(
            f"{checkpoint}: was saved with {before} windows per step, this run has {after}; resume "
            f"with the same: data.global_batch_size={before}, from which micro-batch and "
            "accumulation follow"
        )
    logger.info(
        "%s: saved by %s; going on with %s",
        checkpoint,
        _describe_layout(saved),
        _describe_layout(now),
    )
    if saved["gradient_accumulation_steps"] != now["gradient_accumulation_steps"]:
        logger.warning(
            "resuming with a change: gradient_accumulation_steps was %d, is now %d; BatchNorm and "
            "the routing losses are computed over the windows of a micro-step",
            saved["gradient_accumulation_steps"],
            now["gradient_accumulation_steps"],
        )


def _describe_layout(laid_out: dict[str, int]) -> str:
    words = "{world_size} processes, expert parallel {ep_size}, ZeRO-{zero_stage}"
    return words.format(**laid_out)


def _short(manifest: str | None) -> str:
    return manifest[:12] if manifest else "not known"


def _check_settings(checkpoint: Path, saved: Config, now: Config) -> None:
    """Refuse settings that the state cannot follow; say which of the others have changed."""
    before, after = saved.model_dump(), now.model_dump()
    for section in ("model", "loss", "mlm", "bases", "optim", "data", "run"):
        for field, value in before[section].items():
            if value == after[section][field] or (section, field) in FREE_SETTINGS:
                continue
            change = f"{section}.{field} was {value}, is now {after[section][field]}"
            if (section, field) not in CHANGEABLE_SETTINGS:
                raise UserError(f"{checkpoint}: {change}; resume with the same")
            logger.warning("resuming with a change: %s", change)


def _check_first_steps(checkpoint: Path, saved: Config, now: Config) -> None:
    """Other max_steps must not move the border between bases alone and what comes after them."""
    if saved.objective != "profiles+bases":
        return
    before, after = (first_steps(each.bases, each.optim.max_steps) for each in (saved, now))
    if before != after:
        raise UserError(
            f"{checkpoint}: bases counted alone in the first {before} steps, now they would in "
            f"{after} (optim.max_steps={now.optim.max_steps}); resume with "
            f"bases.first_steps={before}"
        )


def _check_names(checkpoint: Path, saved: Iterable[str], data: Iterable[str]) -> None:
    """Species must be the same in the same order, by which windows are drawn."""
    if list(saved) != list(data):
        raise UserError(
            f"{checkpoint}: holds species {', '.join(saved)}; the data are of {', '.join(data)}"
        )
