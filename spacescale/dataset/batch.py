"""What the loader hands to the trainer."""

from __future__ import annotations

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
class SpeciesBatch:
    """Windows of one species in one micro-batch.

    In training there may be none: where only other ranks hold windows of the species.
    """

    codes: Tensor  # (B, L) uint8 base codes: A0 C1 G2 T3 N4
    targets: Tensor  # (B, N, T) float16, in the units of the stored targets
    rows: Tensor  # (B,) int64, rows of the data set
    on_all_ranks: int = 0  # in training, B of all ranks together
    replaced: tuple[Replaced, ...] = ()  # of these windows, the damaged ones

    @property
    def num_windows(self) -> int:
        """B: of this rank."""
        return len(self.codes)

    def to(self, device: torch.device) -> SpeciesBatch:
        """Copy to a device; asynchronous from pinned memory."""
        tensors = {n: t.to(device, non_blocking=True) for n, t in self._tensors().items()}
        return replace(self, **tensors)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors made on another stream until `stream` is done with them."""
        for tensor in self._tensors().values():
            tensor.record_stream(stream)

    def pin_memory(self) -> SpeciesBatch:
        """Called by torch's DataLoader."""
        return replace(self, **{n: t.pin_memory() for n, t in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {"codes": self.codes, "targets": self.targets, "rows": self.rows}


Batch = dict[str, SpeciesBatch]
"""Species name → its windows, in the model's species order; in training, the same on all ranks."""
