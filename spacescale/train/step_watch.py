"""Judges optimiser steps: not finite, or far above those before; names the windows they read."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spacescale.config import RunConfig
from spacescale.dataset.run_data import RunData
from spacescale.errors import UserError
from spacescale.parallel import comm
from spacescale.train.spikes import SpikeWatch
from spacescale.train.step_report import StepSummary

REPORT = "odd_steps.tsv"  # in the run folder: the windows of each step that is reported here
HEADER = "step\twhat\trank\tspecies\tplace\n"
WINDOWS_IN_LINE = 4
SKIPPED_OF = 1000  # steps in which run.max_skipped_steps are borne


@dataclass(frozen=True)
class Verdict:
    """What is to be said and done about a step; empty for one as it should be.

    scalars: to be logged. restore: BatchNorm's statistics must become again those before the step.
    """

    lines: list[str] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
    restore: bool = False


class StepWatch:
    """Remembers what it needs of the steps before; alike on all ranks."""

    def __init__(self, output: Path, run: RunConfig, data: RunData, accumulation: int):
        self.path, self.run, self.data, self.accumulation = output / REPORT, run, data, accumulation
        self.spikes = SpikeWatch()
        self.skipped: deque[int] = deque()  # steps, of the last SKIPPED_OF
        self.nonfinite_in_a_row = 0
        self._loss, self._refused = math.nan, math.nan

    def begin_phase(self) -> None:
        """Forget losses and norms of before: other losses count from now on."""
        self.spikes = SpikeWatch()

    def begin(self, summary: StepSummary) -> None:
        """Hear of a step before the optimiser applies it."""
        self._loss, self._refused = summary.losses["train/loss"], math.nan

    def refuses(self, norm: float) -> bool:
        """Whether the step that has begun is to be skipped for its loss or its gradient norm."""
        refused = bool(self.spikes.spikes({"loss": self._loss, "gradient norm": norm}))
        self._refused = norm if refused else math.nan
        return refused

    def judge(self, step: int, summary: StepSummary, norm: float) -> Verdict:
        """Judge a step that is done. norm: before clipping; NaN where the step was not applied."""
        refused = math.isfinite(self._refused)
        values = {"loss": self._loss, "gradient norm": self._refused if refused else norm}
        spikes = self.spikes.spikes(values)
        self.spikes.remember(values)
        if summary.bad_ranks or summary.bad_buffers or not (refused or math.isfinite(norm)):
            return self._not_finite(step, summary, norm)
        self.nonfinite_in_a_row = 0
        if not spikes:
            return Verdict()
        what = " and ".join(spikes)
        done = "the step was skipped" if refused else "the step counts"
        names = [f"spike/{words.partition(' ')[0]}" for words in spikes]
        if refused:
            self._count_skipped(step)
            names.append("spike/skipped")
        lines = [f"step {step + 1}: {what}; {done}; {self._windows(step, what)}"]
        return Verdict(lines, dict.fromkeys(names, 1.0), restore=refused)

    def _not_finite(self, step: int, summary: StepSummary, norm: float) -> Verdict:
        """DeepSpeed skips such a step without a word."""
        skipped = bool(summary.bad_ranks) or not math.isfinite(norm)
        self.nonfinite_in_a_row += 1
        ranks = ", ".join(map(str, summary.bad_ranks))
        if ranks:
            what = f"loss not finite on rank {ranks}"
        elif skipped:
            what = f"gradient norm, over ranks 0 to {comm.world_size() - 1}, not finite"
        else:
            what = "BatchNorm statistics not finite"
        done = "they are again those of the step before"
        if skipped:
            self._count_skipped(step)
            done = "the step was skipped"
        windows = self._windows(step, what, summary.bad_ranks)
        names = [f"loss/rank{rank}" for rank in summary.bad_ranks] or [
            "gradient_norm" if skipped else "statistics"
        ]
        return Verdict(
            [f"step {step + 1}: {what}; {done}; {windows}"],
            {f"nonfinite/{name}": 1.0 for name in names},
            restore=True,
        )

    def _count_skipped(self, step: int) -> None:
        self.skipped.append(step)
        while self.skipped[0] <= step - SKIPPED_OF:
            self.skipped.popleft()

    def require_few(self, step: int) -> None:
        """Raise UserError where too many steps were not finite, or skipped, up to this one."""
        if self.nonfinite_in_a_row >= self.run.max_nonfinite_steps:
            raise UserError(
                f"{self.nonfinite_in_a_row} steps in a row were not finite (up to step "
                f"{step + 1}; their windows stand in {self.path}); look at the targets with "
                "`spacescale info`, or lower optim.lr"
            )
        if len(self.skipped) > self.run.max_skipped_steps:
            raise UserError(
                f"{len(self.skipped)} of the last {SKIPPED_OF} steps were skipped (up to step "
                f"{step + 1}; run.max_skipped_steps={self.run.max_skipped_steps}; their windows "
                f"stand in {self.path}); lower optim.lr, or look at the targets"
            )

    def _windows(self, step: int, what: str, ranks: Iterable[int] = ()) -> str:
        """Name some windows of a step, of these ranks or of all; rank 0 writes down all of them."""
        found = [
            (rank, draw.species, self.data.windows.place(draw))
            for rank in ranks or range(comm.world_size())
            for micro_step in range(step * self.accumulation, (step + 1) * self.accumulation)
            for draw in self.data.windows.order.draws(micro_step, rank)
        ]
        if comm.is_main():
            is_new = not self.path.exists()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(HEADER if is_new else "")
                for rank, species, place in found:
                    file.write(f"{step + 1}\t{what}\t{rank}\t{species}\t{place}\n")
        shown = ", ".join(f"{species} {place}" for _, species, place in found[:WINDOWS_IN_LINE])
        more = len(found) - WINDOWS_IN_LINE
        return f"windows {shown}" + (f" and {more} more, in {REPORT}" if more > 0 else "")

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one would, as plain values."""
        return {
            "spikes": self.spikes.state(),
            "skipped": list(self.skipped),
            "nonfinite_in_a_row": self.nonfinite_in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; from {} as at step 0."""
        self.spikes.restore(state.get("spikes", {}))
        self.skipped = deque(state.get("skipped", []))
        self.nonfinite_in_a_row = state.get("nonfinite_in_a_row", 0)
