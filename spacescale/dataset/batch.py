"""What the loader hands to the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Replaced:
    """A damaged window, and the row of the data set that was read in its place."""

    species: str
    row: int
    by: int
    reason: str


@dataclass(frozen=True)
class HiddenBases:
    """Bases that are hidden from the model in some windows of a batch, M in all of them together.

    windows: the places of these windows in the batch, ascending. on_all_ranks: how many there are.
    """

    windows: tuple[int, ...]
    places: Tensor  # (M,) int64: in the bases of these windows, one after another
    bases: Tensor  # (M,) int64, A0 C1 G2 T3: what is to be predicted
    in_repeats: Tensor  # (M,) bool
    on_all_ranks: int

    def map(self, change: Callable[[Tensor], Tensor]) -> HiddenBases:
        """The same with every tensor changed."""
        places, bases, in_repeats = map(change, (self.places, self.bases, self.in_repeats))
        return replace(self, places=places, bases=bases, in_repeats=in_repeats)


@dataclass(frozen=True)
class SpeciesBatch:
    """Windows of one species in one micro-batch.

    In training there may be none: where only other ranks hold windows of the species.
    """

    codes: Tensor  # (B, L) uint8 base codes: A0 C1 G2 T3 N4, hidden 5
    targets: Tensor  # (B, N, T) float16, in the units of the stored targets
    rows: Tensor  # (B,) int64, rows of the data set
    on_all_ranks: int = 0  # in training, B of all ranks together
    replaced: tuple[Replaced, ...] = ()  # of these windows, the damaged ones
    hidden: HiddenBases | None = None  # where the objective hides some

    @property
    def num_windows(self) -> int:
        """B: of this rank."""
        return len(self.codes)

    def to(self, device: torch.device) -> SpeciesBatch:
        """Copy to a device; asynchronous from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors made on another stream until `stream` is done with them."""

        def keep(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        self._map(keep)

    def pin_memory(self) -> SpeciesBatch:
        """Called by torch's DataLoader."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> SpeciesBatch:
        codes, targets, rows = map(change, (self.codes, self.targets, self.rows))
        hidden = self.hidden and self.hidden.map(change)
        return replace(self, codes=codes, targets=targets, rows=rows, hidden=hidden)


Batch = dict[str, SpeciesBatch]
"""Species name → its windows, in the model's species order; in training, the same on all ranks."""
