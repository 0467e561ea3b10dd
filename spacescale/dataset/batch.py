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
class SpeciesBatch:
    """Windows of one species in one micro-batch."""

    codes: Tensor  # (B, L) uint8 base codes: A0 C1 G2 T3 N4
    targets: Tensor  # (B, N, T) float16, in the units of the stored targets
    rows: Tensor  # (B,) int64, rows of the data set
    replaced: tuple[Replaced, ...] = ()  # of these windows, the damaged ones

    def to(self, device: torch.device) -> SpeciesBatch:
        """Copy to a device; asynchronous from pinned memory."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors made on another stream until `stream` is done with them."""
        for tensor in (self.codes, self.targets, self.rows):
            tensor.record_stream(stream)

    def pin_memory(self) -> SpeciesBatch:
        """Called by torch's DataLoader."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> SpeciesBatch:
        codes, targets, rows = map(change, (self.codes, self.targets, self.rows))
        return replace(self, codes=codes, targets=targets, rows=rows)


Batch = dict[str, SpeciesBatch]
"""Species name → its windows, in the model's species order."""
