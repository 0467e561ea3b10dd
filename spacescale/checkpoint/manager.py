"""Save and resume the whole training state: weights, optimiser, random state, position.

A run may go on with another number of processes, expert parallelism or ZeRO stage.
"""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from safetensors.torch import load_file

from spacescale import __version__
from spacescale.checkpoint import layout
from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import (
    StoredPieces,
    read_buffers,
    save_tensors,
    write_buffers,
    write_pieces,
)
from spacescale.checkpoint.probe import Probe, ask, write_probe
from spacescale.config import Config, LossConfig, RunConfig
from spacescale.dataset.run_data import RunData
from spacescale.errors import UserError
from spacescale.files import write_json, write_text
from spacescale.genome.tracks import write_tracks
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.parallel.engine import exact_weights

# What a resumed run may change without a word, and what it may change but hears about. Everything
# else shapes the model, the optimiser's state or the order of the data.
FREE_SETTINGS = {
    ("data", "paths"),
    ("data", "num_workers"),
    ("data", "micro_batch_size"),  # windows per step are compared instead …
    ("data", "global_batch_size"),  # … of these two
    ("model", "checkpoint_stages"),
    *(("run", name) for name in RunConfig.model_fields if name != "seed"),
}
CHANGEABLE_SETTINGS = {
    *(("loss", name) for name in LossConfig.model_fields),
    *(("optim", name) for name in ("lr", "max_steps", "warmup_steps", "final_lr_fraction")),
}

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Writes a run's checkpoints and keeps the last few and the best."""

    def __init__(
        self,
        output: Path,
        config: Config,
        data: RunData,
        engine: deepspeed.DeepSpeedEngine,
        ep_size: int,
        model: Space,
        device: torch.device,
    ):
        self.folder = layout.checkpoints_folder(output)
        self.config, self.data = config, data
        self.engine, self.ep_size = engine, ep_size
        self.model, self.device = model, device

    def save(
        self,
        step: int,
        metrics: dict[str, float],
        best_score: float,
        is_best: bool,
    ) -> Path:
        """Write the checkpoint of an optimiser step; returns its folder once `latest` names it.

        All ranks call it together. `metrics` are the last validation's, `best_score` the best
        validation's so far. The previous checkpoint stays intact until the new one is complete.
        """
        name = layout.step_name(step)
        partial = self.folder / (name + layout.PARTIAL)
        comm.on_main(lambda: _make_empty(partial))
        comm.on_all(lambda: self._write_own(partial))
        with exact_weights(self.engine):
            probe = ask(self.model, self.config.model, self.device)
        state = self._state(step, metrics, best_score)
        comm.on_main(lambda: self._complete(partial, state, probe, is_best))
        return self.folder / name

    def _write_own(self, partial: Path) -> None:
        """Write what this rank alone holds."""
        write_pieces(partial, comm.rank(), list(Partitions(self.engine).pieces()))
        save_tensors(_random_state(), partial / _random_file())

    def _complete(
        self,
        partial: Path,
        state: dict[str, Any],
        probe: Probe,
        is_best: bool,
    ) -> None:
        write_buffers(partial, self.model)
        write_probe(partial / "probe.safetensors", probe)
        for species, tracks in self.data.tracks.items():
            (partial / "tracks").mkdir(exist_ok=True)
            write_tracks(partial / "tracks" / f"{species}.tsv", tracks)
        write_json(partial / "spacescale.json", state, indent=1)
        layout.write_manifest(partial)
        final = partial.with_name(layout.step_name(state["step"]))
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        write_text(self.folder / "latest", final.name)
        if is_best:
            write_text(self.folder / "best", final.name)
        self._remove_old()

    def _state(self, step: int, metrics: dict[str, float], best_score: float) -> dict[str, Any]:
        return {
            "format": layout.FORMAT,
            "format_version": layout.VERSION,
            "step": step,
            "adam_step": Partitions(self.engine).adam_step(),
            "metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()},
            "best_score": best_score if math.isfinite(best_score) else None,
            "config": self.config.model_dump(mode="json"),
            "layout": self._layout(),
            "data_manifests": self.data.manifest_hashes,
            "data_splits": self.data.split_hashes,
            "versions": {
                "spacescale": __version__,
                "torch": torch.__version__,
                "deepspeed": deepspeed.__version__,
            },
        }

    def _remove_old(self) -> None:
        pointers = (self.folder / name for name in ("latest", "best"))
        keep = {pointer.read_text().strip() for pointer in pointers if pointer.is_file()}
        steps = sorted(self.folder.glob("step-*"))
        partial = [p for p in steps if p.name.endswith(layout.PARTIAL)]  # of a run that died
        done = [p for p in steps if p not in partial]
        for old in (*partial, *done[: -self.config.run.keep_last]):
            if old.name not in keep:
                shutil.rmtree(old)

    def load(self, checkpoint: Path) -> dict[str, Any]:
        """Restore weights, optimiser and random state; returns the checkpoint's state.

        All ranks call it together. Raises UserError, on every rank alike and before anything is
        loaded, for a damaged checkpoint, other species, tracks or data, or another number of
        windows per step.
        """
        partitions = Partitions(self.engine)
        state = comm.on_main(lambda: self._check(checkpoint, partitions.sizes()))
        same_world = state["layout"]["world_size"] == comm.world_size()
        stored, buffers, random = comm.on_all(
            lambda: (
                StoredPieces(checkpoint),
                read_buffers(checkpoint, self.model),
                load_file(checkpoint / _random_file()) if same_world else None,
            )
        )
        partitions.load(stored, state["adam_step"])
        for name, buffer in self.model.state_dict().items():
            if name in buffers:
                buffer.copy_(buffers[name])
        if random is None:
            _reseed(self.config.run.seed, state["step"])
        else:
            _set_random_state(random)
        return state

    def _check(self, checkpoint: Path, sizes: dict[str, int]) -> dict[str, Any]:
        layout.verify(checkpoint)
        state = layout.read_state(checkpoint)
        if state["format_version"] != layout.VERSION:
            raise UserError(
                f"{checkpoint}: format version {state['format_version']}, of a run whose windows "
                "came in another order; finish it with the spacescale that wrote it. Its weights "
                "can be converted"
            )
        saved = Config.model_validate(state["config"])
        _check_species(checkpoint, saved.model.species, self.config.model.species)
        _check_settings(checkpoint, saved, self.config)
        for name, now in self.data.manifest_hashes.items():
            if state["data_manifests"][name] != now:
                splits = _compare_splits(
                    layout.data_splits(state)[name], self.data.split_hashes[name]
                )
                raise UserError(
                    f"{checkpoint}: the data set of {name!r} is not the one it was trained on "
                    f"(manifest {state['data_manifests'][name][:12]}, now {now[:12]}){splits}; "
                    "resume with the same, or start anew with another --output"
                )
        _check_layout(checkpoint, state["layout"], self._layout())
        StoredPieces(checkpoint).check(sizes)
        return state

    def _layout(self) -> dict[str, int]:
        """How processes, experts, optimiser state and windows are laid out."""
        return {
            "world_size": comm.world_size(),
            "ep_size": self.ep_size,
            "zero_stage": self.engine.zero_optimization_stage(),
            "micro_batch_size": self.engine.train_micro_batch_size_per_gpu(),
            "gradient_accumulation_steps": self.engine.gradient_accumulation_steps(),
        }


def _compare_splits(saved: str | None, now: str) -> str:
    """Say what the split hashes of two data sets tell about them."""
    if saved is None:
        return ""
    if saved == now:
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


def _check_settings(checkpoint: Path, saved: Config, now: Config) -> None:
    """Refuse settings that the state cannot follow; say which of the others have changed."""
    before, after = saved.model_dump(), now.model_dump()
    for section in ("model", "loss", "optim", "data", "run"):
        for field, value in before[section].items():
            if value == after[section][field] or (section, field) in FREE_SETTINGS:
                continue
            change = f"{section}.{field} was {value}, is now {after[section][field]}"
            if (section, field) not in CHANGEABLE_SETTINGS:
                raise UserError(f"{checkpoint}: {change}; resume with the same")
            logger.warning("resuming with a change: %s", change)


def _check_species(
    checkpoint: Path,
    saved: dict[str, tuple[str, ...]],
    data: dict[str, tuple[str, ...]],
) -> None:
    if list(saved) != list(data):
        raise UserError(
            f"{checkpoint}: holds species {', '.join(saved)}; the data are of {', '.join(data)}"
        )
    for name, assays in data.items():
        if len(assays) != len(saved[name]):
            raise UserError(
                f"{checkpoint}: species {name!r} has {len(saved[name])} tracks there, "
                f"but {len(assays)} in the data"
            )
        if assays != saved[name]:
            index = next(
                i
                for i, pair in enumerate(zip(assays, saved[name], strict=True))
                if pair[0] != pair[1]
            )
            raise UserError(
                f"{checkpoint}: track {index} of species {name!r} was {saved[name][index]!r}, "
                f"in the data it is {assays[index]!r}"
            )


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _random_file() -> str:
    return f"rng-{comm.rank():05d}.safetensors"


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if comm.uses_gpu():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and comm.uses_gpu():
        torch.cuda.set_rng_state(state["cuda"])


def _reseed(seed: int, step: int) -> None:
    """Give every rank of a new number of processes a random state of its own."""
    key = [seed, step, comm.world_size(), comm.rank()]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
