"""What happened in one optimiser step, summed over micro-steps and gathered from all ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spacescale.parallel import comm


@dataclass(frozen=True)
class StepSummary:
    """One optimiser step over all ranks."""

    losses: dict[str, float]  # named as they are logged
    windows: int
    bad_ranks: list[int]  # ranks whose loss was not finite
    bad_buffers: bool  # on some rank
    gradients_in_order: bool  # the same order of arrival on all ranks
    stop_signal: int  # a signal that some rank received, or 0
    save_ready: bool  # no rank is writing a checkpoint
    num_replaced: int  # damaged windows that others took the place of


class StepReport:
    """Collects the loss terms of one rank's micro-steps; one collective shares them all.

    Logged are `train/loss` (the sum that was differentiated), `train/loss/SPECIES` (mean Poisson
    loss over that species' windows, times its loss.species_weight) and `train/TERM` for the
    routing losses.
    """

    def __init__(self, species: list[str], device: torch.device):
        self.species, self.device = species, device
        self.windows = dict.fromkeys(species, 0)
        self.sums: dict[str, Tensor] = {}
        self.micro_steps = self.num_replaced = 0

    def add(
        self,
        losses: dict[str, Tensor],
        total: Tensor,
        windows: dict[str, int],
        num_replaced: int = 0,
    ) -> None:
        """Add one micro-step: weighted loss terms, their sum, and windows per species.

        num_replaced: how many of the windows took the place of damaged ones.
        """
        self.num_replaced += num_replaced
        self.micro_steps += 1
        self._add("train/loss", total)
        for name, value in losses.items():
            kind, _, species = name.partition("/")
            if kind == "poisson":  # weighted by its share of the batch: back to a sum over windows
                self._add(f"train/loss/{species}", value * sum(windows.values()))
            else:
                self._add(f"train/{name}", value)
        for name, count in windows.items():
            self.windows[name] += count

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()

    def gather(
        self,
        stop_signal: int = 0,
        save_ready: bool = True,
        largest_buffer: Tensor | None = None,
        gradient_order: int = 0,
    ) -> StepSummary:
        """Share with all ranks; every rank gets the same summary.

        save_ready: whether this rank is not writing a checkpoint. largest_buffer: a scalar that is
        not finite if a buffer of this rank's model is not. gradient_order: what `GradientOrder`
        took.
        """
        names = sorted(self.sums)
        largest = torch.zeros((), device=self.device) if largest_buffer is None else largest_buffer
        numbers = (
            *self.windows.values(),
            gradient_order,
            stop_signal,
            save_ready,
            self.num_replaced,
        )
        counts = [float(n) for n in numbers]
        row = torch.cat(
            [
                torch.stack([*(self.sums[n] for n in names), largest]),
                torch.tensor(counts, device=self.device),
            ]
        )
        rows = comm.gather_rows(row).cpu()  # (world, terms + 1 + species + 4)
        losses, columns = rows[:, : len(names)].T, rows[:, len(names) :].T
        buffers, *of_species, orders, signals, ready, replaced = columns
        sums = dict(zip(names, losses, strict=True))
        windows = {n: float(v.sum()) for n, v in zip(self.species, of_species, strict=True)}
        micro_steps = len(rows) * self.micro_steps
        per = {f"train/loss/{name}": count for name, count in windows.items()}
        return StepSummary(
            losses={n: float(v.sum()) / per.get(n, micro_steps) for n, v in sums.items()},
            windows=int(sum(windows.values())),
            bad_ranks=[r for r, v in enumerate(sums["train/loss"]) if not v.isfinite()],
            bad_buffers=not bool(buffers.isfinite().all()),
            gradients_in_order=bool((orders == orders[0]).all()),
            stop_signal=int(signals.max()),
            save_ready=bool(ready.all()),
            num_replaced=int(replaced.sum()),
        )
