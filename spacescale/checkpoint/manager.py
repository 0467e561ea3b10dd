"""Save and resume the whole training state: weights, optimiser, random state, position.

A run may go on with another number of processes, expert parallelism or ZeRO stage.
"""

from __future__ import annotations

import logging
import math
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch

from spacescale import __version__
from spacescale.checkpoint import found, layout
from spacescale.checkpoint.compatibility import check_compatible
from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import (
    StoredPieces,
    read_buffers,
    read_tensors,
    save_tensors,
    write_buffers,
    write_pieces,
)
from spacescale.checkpoint.probe import Probe, ask, write_probe
from spacescale.config import Config
from spacescale.dataset.run_data import RunData
from spacescale.files import write_json, write_text
from spacescale.genome.tracks import write_tracks
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.parallel.engine import exact_weights

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Writes a run's checkpoints and keeps the last few and the best.

    run_id names the run for ever, lineage the line of steps that it is on (found.py); both are
    rank 0's to use.
    """

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
        self.run_id, self.lineage = secrets.token_hex(8), found.begin_line(None)

    def save(
        self,
        step: int,
        metrics: dict[str, float],
        best_score: float,
        is_best: bool,
        turns: dict[str, Any],
    ) -> Path:
        """Write the checkpoint of an optimiser step; returns its folder once `latest` names it.

        All ranks call it together. `metrics` are the last validation's, `best_score` the best
        validation's so far, `turns` the sample order's. The previous checkpoint stays intact until
        the new one is complete.
        """
        name = layout.step_name(step)
        partial = self.folder / (name + layout.PARTIAL)
        comm.on_main(lambda: _make_empty(partial))
        comm.on_all(lambda: self._write_own(partial))
        with exact_weights(self.engine):
            probe = ask(self.model, self.config.model, self.device)
        state = self._state(step, metrics, best_score, turns)
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
        if final.exists():  # of another line of steps, or damaged
            logger.warning("%s: set aside as %s", final, found.set_aside(final).name)
        partial.replace(final)
        write_text(self.folder / "latest", final.name)
        if is_best:
            write_text(self.folder / "best", final.name)
        self._remove_old()

    def _state(
        self, step: int, metrics: dict[str, float], best_score: float, turns: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "format": layout.FORMAT,
            "format_version": layout.VERSION,
            "time": round(time.time(), 3),
            "run": self.run_id,
            "lineage": self.lineage,
            "step": step,
            "adam_step": Partitions(self.engine).adam_step(),
            "turns": turns,
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
        """Remove what a killed save left, and old checkpoints of this very line of steps."""
        for partial in self.folder.glob(f"step-*{layout.PARTIAL}"):
            shutil.rmtree(partial)
        for old in found.superfluous(self.folder, self.lineage, self.config.run):
            shutil.rmtree(old)

    def load(self, checkpoint: Path, verified: bool = False) -> dict[str, Any]:
        """Restore weights, optimiser and random state; returns the checkpoint's state.

        All ranks call it together. Raises UserError, on every rank alike and before anything is
        loaded, for a damaged checkpoint, other species, tracks or data, or another number of
        windows per step. verified: it has just been held against its manifest.
        """
        partitions = Partitions(self.engine)
        if not verified:
            comm.on_main(lambda: found.require_sound(checkpoint))
        state = comm.on_main(lambda: self._check(checkpoint, partitions.sizes()))
        same_world = state["layout"]["world_size"] == comm.world_size()
        stored, buffers, random = comm.on_all(
            lambda: (
                StoredPieces(checkpoint),
                read_buffers(checkpoint, self.model),
                read_tensors(checkpoint / _random_file()) if same_world else None,
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
        self.lineage = found.begin_line(state)
        if checkpoint.resolve().parent == self.folder.resolve():
            self.run_id = state.get("run") or self.run_id
        return state

    def _check(self, checkpoint: Path, sizes: dict[str, int]) -> dict[str, Any]:
        state = layout.read_state(checkpoint)
        check_compatible(checkpoint, state, self.config, self.data, self._layout())
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
