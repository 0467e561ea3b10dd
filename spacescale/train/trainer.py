"""The training loop."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from spacescale.checkpoint import layout
from spacescale.checkpoint.manager import CheckpointManager
from spacescale.checkpoint.saving import Saved
from spacescale.dataset.batch import Batch, Replaced
from spacescale.dataset.loader import BatchesOnDevice, training_batches
from spacescale.dataset.run_data import RunData
from spacescale.errors import UserError
from spacescale.files import write_text
from spacescale.metrics.history import Record
from spacescale.metrics.throughput import Throughput, memory_gib
from spacescale.metrics.writer import RunLog, TrainingProgress
from spacescale.objectives import Objective
from spacescale.parallel import comm
from spacescale.parallel.engine import Engine, set_learning_rate
from spacescale.parallel.gradient_order import GradientOrder
from spacescale.parallel.run_folder import DONE, REQUEUE
from spacescale.parallel.step_gate import veto_steps
from spacescale.train.grace import Grace
from spacescale.train.interval_losses import IntervalLosses
from spacescale.train.quarantine import Quarantine
from spacescale.train.schedule import learning_rate
from spacescale.train.signals import StopRequest
from spacescale.train.statistics_watch import StatisticsWatch
from spacescale.train.step_report import StepReport, StepSummary
from spacescale.train.step_watch import StepWatch, Verdict
from spacescale.train.validation_watch import ValidationWatch

EXPERTS_LOGGED = "valid_experts"  # begins names of scores that no checkpoint keeps

logger = logging.getLogger(__name__)


class Trainer:
    """Runs optimiser steps, validates, saves, and watches for steps that are not finite.

    All ranks run it in lockstep; rank 0 speaks and writes.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        data: RunData,
        manager: CheckpointManager,
        output: Path,
        device: torch.device,
        stop: StopRequest,
        record: Record,
    ):
        config = objective.config
        self.engine, self.objective, self.config, self.data = engine, objective, config, data
        self.manager, self.output, self.device, self.stop = manager, output, device, stop
        self.record = record  # of the run's history
        self.accumulation = engine.gradient_accumulation_steps()
        self.gradient_order = GradientOrder(manager.model)
        objective.begin(data.datasets, device)
        self.scores: dict[str, float] = {}  # of what was trained, at the last validation; its step
        self.validation_due = False  # a stop did not wait for that of the last step
        self.validations = ValidationWatch(config.run, objective.score)
        self.since_log = IntervalLosses(list(data.datasets))
        self.since_validation = IntervalLosses(list(data.datasets))
        self.steps = StepWatch(output, config.run, data, self.accumulation)
        if config.run.skip_spikes:
            veto_steps(engine, self.steps.refuses)
        self.quarantine = Quarantine(output, data.datasets)
        self.replaced: list[Replaced] = []  # on this rank, in this step
        self.save_stall_s = math.nan  # what training waited for at the last save
        self.statistics = StatisticsWatch(manager.model)
        self.grace = Grace()
        # What must hold of the checkpoints before the run is called done; on rank 0.
        self.before_done: Callable[[], None] = lambda: None

    def restore(self, checkpoint: Path) -> int:
        """Load a checkpoint that was just checked; returns the first step to run."""
        state = self.manager.load(checkpoint)
        self.scores = {n: math.nan if v is None else v for n, v in state["metrics"].items()}
        metric = layout.read_config(checkpoint, state).run.best_metric
        same_metric = metric == self.config.run.best_metric
        # Earlier versions kept one of what was not trained yet.
        is_trained = self.objective.trains(metric, state["step"] - 1)
        best_score = state["best_score"] if same_metric and is_trained else None
        self.validations.restore(state.get("validation_watch", {}), best_score)
        self.since_log.restore(state.get("losses_since_log", {}))
        self.since_validation.restore(state.get("losses_since_validation", {}))
        self.steps.restore(state.get("step_watch", {}))
        self.validation_due = state.get("validation_due", False)
        return state["step"]

    def fit(self, first_step: int) -> None:
        """Train from `first_step` to `optim.max_steps`, or until a stop is requested.

        It is done before that where `run.patience` is spent, be it in the run resumed from.
        Raises UserError after too many steps in a row that were not finite.
        """
        last = self.config.optim.max_steps
        self.log = RunLog(self.output, enabled=comm.is_main(), resume_step=first_step)
        self.progress = TrainingProgress(
            last, first_step, self.config.run.log_every, enabled=comm.is_main()
        )
        self.log.text("config", f"```json\n{self.config.model_dump_json(indent=1)}\n```")
        self.throughput = Throughput()
        try:
            self.batches = BatchesOnDevice(
                training_batches(
                    self.data.windows,
                    first_step * self.accumulation,
                    last * self.accumulation,
                    self.config.data.num_workers,
                    pin_memory=self.device.type == "cuda",
                ),
                self.device,
            )
            self.engine.train()
            self.record.begin_training()
            if self.validation_due and not self._make_up_validation(first_step):
                return
            for step in range(first_step, last):
                if self.validations.early_stop:
                    break
                if self.objective.begins_phase(step):
                    self._begin_phase()
                summary = self._optimiser_step(step)
                done = self.record.step = step + 1
                if summary.save_ready:
                    self._announce_saved(self.manager.advance())
                stop_signal, is_best = summary.stop_signal, False
                if done % self.config.run.valid_every == 0 or done == last:
                    is_best = self._validate(done)
                    if self.validation_due:
                        stop_signal = self._stop_signal()
                is_end = self._is_end(done)
                if is_best or stop_signal or done % self.config.run.save_every == 0 or is_end:
                    self._save(done, is_best, stop_signal != 0)
                if stop_signal:
                    self._report_stop(stop_signal, done)
                    return
            self._report_done(last)
        finally:
            self.progress.close()
            self.log.close()

    def _begin_phase(self) -> None:
        """Hold nothing against what was before other losses began to count.

        A run that is resumed at this step does the same.
        """
        self.validations.begin_phase()
        self.steps.begin_phase()
        self.since_validation.take()

    def _optimiser_step(self, step: int) -> StepSummary:
        rate = learning_rate(step, self.config.optim) * self.objective.rate_factor(step)
        set_learning_rate(self.engine, rate)
        report = StepReport(list(self.data.datasets), self.device)
        self.statistics.keep()
        for _ in range(self.accumulation - 1):
            self._forward_and_backward(next(self.batches), report, step)
            self.engine.step()
        self._forward_and_backward(next(self.batches), report, step)
        summary = report.gather(
            self.stop.signal or 0,
            self.manager.is_ready,
            self.statistics.largest(),
            self.gradient_order.take(),
        )
        self._require_order(step, summary)
        self.steps.begin(summary)
        self.since_log.add(summary.species)
        self.since_validation.add(summary.species)
        self.engine.step()
        self.throughput.step(summary.windows, self.batches.waited_s)
        norm = self._gradient_norm()
        if summary.num_replaced:
            for line in self.quarantine.add(self.replaced):
                self.progress.say(f"step {step + 1}: {line}")
        self.replaced.clear()
        self._act_on(self.steps.judge(step, summary, norm), step)
        self._show(step + 1, summary)
        is_last = step + 1 == self.config.optim.max_steps
        if (step + 1) % self.config.run.log_every == 0 or step == 0 or is_last:
            self._log_step(step + 1, summary, norm, rate)
        return summary

    def _require_order(self, step: int, summary: StepSummary) -> None:
        if not summary.gradients_in_order:
            raise UserError(
                f"step {step + 1}: gradients arrived in different orders on the ranks, and may "
                "have been added to each other; nothing of this step is saved. This is a fault of "
                "spacescale: please report it with the configuration"
            )

    def _forward_and_backward(self, batch: Batch, report: StepReport, step: int) -> None:
        losses = self.objective.losses(self.engine, batch, comm.sum_over_ranks, step)
        self.engine.backward(losses.total)
        self.batches.copy_next()
        replaced = [one for part in batch.values() for one in part.replaced]
        self.replaced += replaced
        windows = {name: part.num_windows for name, part in batch.items()}
        report.add(losses, windows, len(replaced))

    def _gradient_norm(self) -> float:
        """Norm before clipping; NaN where DeepSpeed skipped the step because it was not finite."""
        norm = self.engine.get_global_grad_norm() if self.engine.was_step_applied() else None
        return math.nan if norm is None else float(norm)

    def _act_on(self, verdict: Verdict, step: int) -> None:
        """Say, log and mend what was odd about a step, or end the run."""
        for line in verdict.lines:
            self.progress.say(line)
        if verdict.scalars:
            self.log.scalars(step + 1, verdict.scalars)
        if verdict.restore:
            self.statistics.restore()
        try:
            self.steps.require_few(step)
        except UserError:
            self._announce_saved(self.manager.finish())
            raise

    def _log_step(self, step: int, summary: StepSummary, norm: float, rate: float) -> None:
        """Log a step, and what each species lost over all steps since the last that was logged."""
        of_species = self.since_log.take()
        self.log.scalars(
            step,
            summary.losses
            | {f"train/loss/{name}": s.mean for name, s in of_species.items() if s.windows}
            | {f"train/windows/{name}": s.windows for name, s in of_species.items()}
            | {
                "optim/gradient_norm": norm,
                "optim/learning_rate": rate,
                "speed/windows_per_s": self.throughput.windows_per_s,
                "speed/data_wait_share": self.throughput.data_wait_share,  # of rank 0
                "speed/memory_gib": memory_gib(self.device),
            },
        )

    def _show(self, step: int, summary: StepSummary) -> None:
        """Show the step's sum, and each species' loss since the last point that was logged."""
        of_species = self.since_log.sums
        losses = {"total": summary.losses["train/loss"]}
        losses |= {name: sums.mean for name, sums in of_species.items()}
        windows = {name: sums.windows for name, sums in of_species.items()}
        left = self.throughput.time_left_s(self.config.optim.max_steps - step)
        self.progress.update(step, losses, self.throughput.windows_per_s, left, windows)

    def _is_end(self, step: int) -> bool:
        is_last = step == self.config.optim.max_steps and not self.validation_due
        return is_last or self.validations.early_stop is not None

    def _make_up_validation(self, step: int) -> bool:
        """Score what a stop did not wait for, and save it; False where another came meanwhile."""
        is_best = self._validate(step)
        if self.validation_due:
            self._report_stop(self._stop_signal(), step)
            return False
        self._save(step, is_best, waits=True, again=True)
        return True

    def _stop_signal(self) -> int:
        """The signal that asks to stop, on whichever rank it came; 0 without one."""
        return max(comm.gather(self.stop.signal or 0))

    def _stop_asked(self) -> bool:
        asked = torch.tensor(float(self.stop.signal is not None), device=self.device)
        return bool(comm.add_over_ranks(asked) > 0)

    def _validate(self, step: int) -> bool:
        """Score the validation windows; whether that is the best score so far.

        A stop does not wait for it: then it is due, and the run that goes on begins with it.
        """
        self.engine.eval()
        batch_size = self.engine.train_micro_batch_size_per_gpu()
        scores = self.objective.validate(self.engine, batch_size, self._stop_asked)
        self.engine.train()
        self.validation_due = scores is None
        if scores is None:
            return False
        trained = {n: v for n, v in scores.items() if self.objective.trains(n, step - 1)}
        training = self.since_validation.take()
        gaps = self.validations.gaps(trained, training, self.objective.same_loss)
        self.scores = {"step": step} | trained | gaps
        self.log.scalars(step, scores | gaps)
        is_best = self.validations.note(trained)
        for line in self.validations.lines(step, scores):
            self.progress.say(line)
        self.throughput.restart()
        return is_best

    def _save(self, step: int, is_best: bool, waits: bool, again: bool = False) -> None:
        """Save beside what comes next; where nothing does, until the checkpoint is complete."""
        is_end = self._is_end(step)
        began = time.perf_counter()
        self._announce_saved(self.manager.finish())
        scores = {n: v for n, v in self.scores.items() if not n.startswith(EXPERTS_LOGGED)}
        run = self.config.run
        with_probe = is_best or is_end or run.probe_every_save
        watches = {
            "step_watch": self.steps.state(),
            "validation_watch": self.validations.state(),
            "losses_since_log": self.since_log.state(),
            "losses_since_validation": self.since_validation.state(),
            "validation_due": self.validation_due,
        }
        best_score = self.validations.best_score
        self.manager.save(step, scores, best_score, is_best, with_probe, watches, again)
        waits = waits or is_end or not run.save_in_background
        saved = self.manager.finish() if waits else None
        self.save_stall_s = time.perf_counter() - began
        self._announce_saved(saved)
        self.throughput.restart()

    def _announce_saved(self, saved: Saved | None) -> None:
        """Say and log that a checkpoint is complete."""
        if saved is None:
            return
        self.record.saved_step = saved.step
        best = " (best so far)" if saved.is_best else ""
        self.progress.say(f"step {saved.step}: saved {saved.folder} in {saved.total_s:.1f} s{best}")
        times = {"speed/save_stall_s": self.save_stall_s, "speed/save_total_s": saved.total_s}
        self.log.scalars(saved.step, times)
        if comm.is_main():
            self.grace.check(saved.total_s)

    def _report_stop(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        self.progress.say(f"{name}: saved step {step}, leaving; continue with --resume auto")
        comm.on_main(
            lambda: self._end_well("stopped", REQUEUE, f"{name} at step {step}\n", signal=name)
        )

    def _report_done(self, last: int) -> None:
        comm.on_main(self.before_done)
        step, early = self.record.step, self.validations.early_stop
        if early is None or step == last:
            comm.on_main(lambda: self._end_well("done", DONE, f"step {last}\n"))
            return
        self.progress.say(f"step {step}: early stop: {early}")
        text = f"step {step}, early stop: {early}\n"
        comm.on_main(lambda: self._end_well("done", DONE, text, early_stop=early))

    def _end_well(
        self,
        cause: Literal["done", "stopped"],
        marker: str,
        text: str,
        signal: str | None = None,
        early_stop: str | None = None,
    ) -> None:
        self.record.end(cause, signal=signal, early_stop=early_stop)
        write_text(self.output / marker, text)
