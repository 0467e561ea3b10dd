"""Save and resume the whole training state: weights, optimiser, random state, position.

A run may go on with another number of processes, expert parallelism or ZeRO stage.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor, nn

from spacescale import __version__
from spacescale.checkpoint import found, layout
from spacescale.checkpoint.partitions import Partitions
from spacescale.checkpoint.pieces import (
    BUFFERS,
    FIELDS,
    StoredPieces,
    buffers_of,
    name_pieces,
    read_buffers,
    read_tensors,
    state_file,
)
from spacescale.checkpoint.probe import FILE as PROBE
from spacescale.checkpoint.probe import Probe, probe_tensors, take_probe
from spacescale.checkpoint.room import make_room_for_save, require_room_for_run
from spacescale.checkpoint.saving import Saved, SaveUnderWay
from spacescale.checkpoint.writing import HostCopy, Progress, Written, save_tensors
from spacescale.dataset.run_data import RunData
from spacescale.files import write_json, write_text
from spacescale.objectives import Objective
from spacescale.parallel import comm
from spacescale.parallel.engine import exact_weights

OTHER_BYTES = 2**20  # of a checkpoint, at most, beside weights, moments and buffers

logger = logging.getLogger(__name__)


class CheckpointManager:
    """Writes a run's checkpoints and keeps the last few and the best.

    run_id names the run for ever, lineage the line of steps that it is on (found.py); both are
    rank 0's to use. began_with: the weights that training begins with, a `Beginning`; one that goes
    on keeps what its checkpoint tells of it.
    """

    def __init__(
        self,
        output: Path,
        objective: Objective,
        data: RunData,
        engine: deepspeed.DeepSpeedEngine,
        laid_out: dict[str, int],
        model: nn.Module,
        device: torch.device,
        began_with: dict[str, Any] | None = None,
    ):
        self.folder = layout.checkpoints_folder(output)
        self.objective, self.config, self.data = objective, objective.config, data
        self.engine, self.laid_out = engine, laid_out  # how processes and windows are laid out
        self.model, self.device = model, device
        weights = sum(Partitions(engine).sizes().values())
        buffers = sum(buffer.nbytes for buffer in buffers_of(model).values())
        self.num_bytes = 4 * len(FIELDS) * weights + buffers + OTHER_BYTES
        self.saving: SaveUnderWay | None = None
        self.while_waiting: Callable[[], None] = lambda: None  # called as long as a save gets on
        self.host_copy = None
        if self.config.run.save_in_background:
            numbers = Partitions(engine).num_owned()
            self.host_copy = comm.on_all(lambda: HostCopy(numbers, device.type == "cuda"))
        self.run_id, self.lineage = secrets.token_hex(8), found.begin_line(None)
        self.beginning: dict[str, Any] = {"began_with": began_with}

    def save(
        self,
        step: int,
        metrics: dict[str, float],
        best_score: float,
        is_best: bool,
        with_probe: bool,
        watches: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> None:
        """Begin to write the checkpoint of an optimiser step; `finish` or `advance` complete it.

        All ranks call it together, with no other save under way. `metrics` are the last
        validation's, `best_score` the best validation's so far, `watches` what those over training
        go on from, by their names in the state. again: the checkpoint of this step stands there,
        and is to be replaced by one that was validated.

        Training may go on when it returns, unless run.save_in_background is off: then the state
        must not change before `finish`. The previous checkpoint stays intact until the new one is
        complete.
        """
        began = time.perf_counter()
        assert self.saving is None, "finish the other one first"
        final = self.folder / layout.step_name(step)
        partial = final.with_name(final.name + layout.PARTIAL)
        comm.on_main(lambda: self._make_empty(partial))
        probe = None
        if with_probe:
            with exact_weights(self.engine):
                probe = take_probe(self.model, self.objective, self.device)
        files = comm.on_all(lambda: self._snapshot(probe))
        state = self._state(step, metrics, best_score) | dict(watches or {})

        def write(progress: Progress) -> dict[str, Written]:
            if comm.is_main():
                self._describe(partial, state)
            return {name: save_tensors(t, partial / name, progress) for name, t in files.items()}

        self.saving = SaveUnderWay(
            partial,
            final,
            step,
            is_best,
            write,
            lambda written: self._complete(partial, final, written, is_best, again),
            began,
        )

    @property
    def is_ready(self) -> bool:
        """Whether this rank need not be waited for: it is not writing."""
        return self.saving is None or self.saving.is_ready

    def advance(self) -> Saved | None:
        """Go on with the save under way, where all ranks are ready; returns it once complete.

        All ranks call it together. Raises UserError, on all alike, if one could not write.
        """
        saved = self.saving.advance() if self.saving else None
        if saved is not None:
            self.saving = None
        return saved

    def finish(self) -> Saved | None:
        """Wait for the save under way, if there is one, and return it; as `advance`."""
        saved = self.saving.finish(self.while_waiting) if self.saving else None
        self.saving = None
        return saved

    def require_room(self) -> None:
        """Raise UserError where the disk cannot take the checkpoints of the run. On rank 0."""
        found.sweep(self.folder)
        require_room_for_run(self.folder, self.num_bytes, self.config.run)

    def _make_empty(self, partial: Path) -> None:
        """Make the folder that is written to, once there is room for what comes into it."""
        found.sweep(self.folder)
        make_room_for_save(self.folder, self.num_bytes, self.lineage, self.config.run)
        partial.mkdir(parents=True)

    def _snapshot(self, probe: Probe | None) -> dict[str, dict[str, Tensor]]:
        """What this rank writes: file → name → tensor. Nothing in it changes while training goes on
        if there is memory for it, else pieces are the optimiser's own."""
        pieces = name_pieces(Partitions(self.engine).pieces())
        files = {
            state_file(comm.rank()): self.host_copy.take(pieces) if self.host_copy else pieces,
            _random_file(): _random_state(),
        }
        if comm.is_main():
            files[BUFFERS] = {n: t.to("cpu", copy=True) for n, t in buffers_of(self.model).items()}
            if probe is not None:
                files[PROBE] = probe_tensors(probe)
        return files

    def _describe(self, partial: Path, state: dict[str, Any]) -> None:
        self.objective.attach(partial, self.data)
        write_json(partial / "spacescale.json", state, indent=1)

    def _complete(
        self,
        partial: Path,
        final: Path,
        written: Mapping[str, Written],
        is_best: bool,
        again: bool,
    ) -> None:
        """Make what all ranks have written the newest checkpoint."""
        layout.write_manifest(partial, written)
        aside = found.set_aside(final) if final.exists() else None
        partial.replace(final)
        if aside and again:
            found.remove(aside)
        elif aside:  # of another line of steps, or damaged
            logger.warning("%s: set aside as %s", final, aside.name)
        write_text(self.folder / "latest", final.name)
        if is_best:
            write_text(self.folder / "best", final.name)
        for old in found.superfluous(self.folder, self.lineage, self.config.run):
            found.remove(old)

    def _state(self, step: int, metrics: dict[str, float], best_score: float) -> dict[str, Any]:
        return {
            "format": layout.FORMAT,
            "format_version": layout.VERSION,
            "time": round(time.time(), 3),
            "run": self.run_id,
            "lineage": self.lineage,
            "step": step,
            "adam_step": Partitions(self.engine).adam_step(),
            "metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()},
            "best_score": best_score if math.isfinite(best_score) else None,
            "config": self.config.model_dump(mode="json"),
            "layout": self.laid_out,
            "data_manifests": self.data.manifest_hashes,
            "data_splits": self.data.split_hashes,
            "data_transforms": self.data.transforms,
            "data_contigs": self.data.contigs,
            **self.beginning,
            "versions": {
                "spacescale": __version__,
                "torch": torch.__version__,
                "deepspeed": deepspeed.__version__,
            },
        }

    def load(self, checkpoint: Path) -> dict[str, Any]:
        """Restore weights, optimiser and random state; returns the checkpoint's state.

        All ranks call it together, with one that was found sound (found.py) and compatible
        (compatibility.py). Raises UserError, on every rank alike and before anything is loaded,
        where its pieces are not those of the model.
        """
        partitions = Partitions(self.engine)
        sizes, trained = partitions.sizes(), partitions.trained()
        comm.on_main(lambda: StoredPieces(checkpoint).check(sizes, trained))
        state = comm.on_main(lambda: layout.read_state(checkpoint))
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
        self.beginning = layout.beginning(state)
        if checkpoint.resolve().parent == self.folder.resolve():
            self.run_id = state.get("run") or self.run_id
        return state


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
