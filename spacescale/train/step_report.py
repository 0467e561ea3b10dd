"""What happened in one optimiser step, summed over micro-steps and gathered from all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spacescale.objectives import Losses
from spacescale.parallel import comm
from spacescale.train.interval_losses import LossSum

LOSS, MEASURED = "sum of loss/", "windows measured/"  # of a species


@dataclass(frozen=True)
class StepSummary:
    """One optimiser step over all ranks."""

    losses: dict[str, float]  # named as they are logged: the sum and its terms of no one species
    species: dict[str, LossSum]  # of every species
    windows: int
    bad_ranks: list[int]  # ranks whose loss was not finite
    bad_buffers: bool  # on some rank
    gradients_in_order: bool  # the same order of arrival on all ranks
    stop_signal: int  # a signal that some rank received, or 0
    save_ready: bool  # no rank is writing a checkpoint
    num_replaced: int  # damaged windows that others took the place of


class StepReport:
    """Collects the loss terms of one rank's micro-steps; one collective shares them all.

    Named are `train/loss` (the sum that was differentiated) and `train/TERM` for its terms that
    belong to no one species, means over micro-steps. Species' losses are sums over windows and
    carry no weight, whatever the objective makes of them in the sum.
    """

    def __init__(self, species: list[str], device: torch.device):
        self.species, self.device = species, device
        self.windows = dict.fromkeys(species, 0)  # of this rank
        self.sums: dict[str, Tensor] = {}
        self.micro_steps = self.num_replaced = 0

    def add(
        self,
        losses: Losses,
        windows: Mapping[str, int],
        num_replaced: int = 0,
    ) -> None:
        """Add one micro-step: what it lost, and how many windows of each species are this rank's.

        num_replaced: how many of the windows took the place of damaged ones. Nothing here waits
        for the device.
        """
        self.num_replaced += num_replaced
        self.micro_steps += 1
        self._add("train/loss", losses.total)
        for name, value in losses.terms.items():
            self._add(f"train/{name}", value)
        for name, found in losses.of_species.items():
            self._add(f"{LOSS}{name}", found.mean * found.measured * found.windows)
            if isinstance(found.measured, Tensor):
                self._add(f"{MEASURED}{name}", found.measured * found.windows)
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
        terms, columns = rows[:, : len(names)].T, rows[:, len(names) :].T
        buffers, *of_species, orders, signals, ready, replaced = columns
        sums = dict(zip(names, terms, strict=True))
        windows = {n: int(v.sum()) for n, v in zip(self.species, of_species, strict=True)}
        micro_steps = len(rows) * self.micro_steps
        return StepSummary(
            losses={
                n: float(v.sum()) / micro_steps
                for n, v in sums.items()
                if not n.startswith((LOSS, MEASURED))
            },
            species={name: _species_sum(name, count, sums) for name, count in windows.items()},
            windows=sum(windows.values()),
            bad_ranks=[r for r, v in enumerate(sums["train/loss"]) if not v.isfinite()],
            bad_buffers=not bool(buffers.isfinite().all()),
            gradients_in_order=bool((orders == orders[0]).all()),
            stop_signal=int(signals.max()),
            save_ready=bool(ready.all()),
            num_replaced=int(replaced.sum()),
        )


def _species_sum(name: str, windows: int, sums: Mapping[str, Tensor]) -> LossSum:
    """A species' sum from the ranks' terms (world,); none are there if no rank had its windows."""
    # A rank's mean stands for all ranks' windows, and its count is already that of all ranks.
    loss, measured = sums.get(f"{LOSS}{name}"), sums.get(f"{MEASURED}{name}")
    return LossSum(
        total=0.0 if loss is None else float(loss.mean()),
        measured=windows if measured is None else float(measured.mean()),
        windows=windows,
    )
