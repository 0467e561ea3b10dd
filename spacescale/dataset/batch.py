"""What the loader hands to the trainer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpeciesBatch:
    """Windows of one species in one micro-batch."""

    codes: Tensor  # (B, L) uint8 base codes: A0 C1 G2 T3 N4
    targets: Tensor  # (B, N, T) float16, in the units of the stored targets
    rows: Tensor  # (B,) int64, rows of the data set

    def to(self, device: torch.device) -> SpeciesBatch:
        """Copy to a device; asynchronous from pinned memory."""
        return SpeciesBatch(
            *(t.to(device, non_blocking=True) for t in (self.codes, self.targets, self.rows))
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors made on another stream until `stream` is done with them."""
        for tensor in (self.codes, self.targets, self.rows):
            tensor.record_stream(stream)

    def pin_memory(self) -> SpeciesBatch:
        """Called by torch's DataLoader."""
        return SpeciesBatch(*(t.pin_memory() for t in (self.codes, self.targets, self.rows)))


Batch = dict[str, SpeciesBatch]
"""Species name → its windows, in the model's species order."""
