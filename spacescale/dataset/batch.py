"""What the loader hands to the trainer."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Replaced:
    """A damaged window, and the row of the data set that was read in its place."""

    species: str
    row: int
    by: int
    reason: str


class Tensors:
    """What is done with all tensors of a dataclass."""

    def to(self, device: torch.device) -> Self:
        """Copy to a device; asynchronous from pinned memory."""
        moved = {n: t.to(device, non_blocking=True) for n, t in self._tensors().items()}
        return replace(self, **moved)  # pyright: ignore[reportArgumentType]

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors made on another stream until `stream` is done with them."""
        for tensor in self._tensors().values():
            tensor.record_stream(stream)

    def pin_memory(self) -> Self:
        """Called by torch's DataLoader."""
        pinned = {n: t.pin_memory() for n, t in self._tensors().items()}
        return replace(self, **pinned)  # pyright: ignore[reportArgumentType]

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class SpeciesBatch(Tensors):
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


@dataclass(frozen=True)
class TokenBatch(Tensors):
    """Sequences of one species as rows of tokens, some of which are hidden.

    ids, labels: (B, N) int64, what the model is given and what stood there, `masking.IGNORED` where
    nothing was hidden. attended: (B, N) bool, False on what fills rows up. vocabulary: (B,) int64,
    which of the run's vocabularies a row is made of. Without rows N is 0.
    """

    ids: Tensor
    labels: Tensor
    attended: Tensor
    vocabulary: Tensor
    on_all_ranks: int = 0  # in training, B of all ranks together
    replaced: tuple[Replaced, ...] = ()  # none: a sequence that cannot be read ends the run

    @property
    def num_windows(self) -> int:
        """B: of this rank."""
        return len(self.ids)


Batch = dict[str, Any]
"""Species name → its windows, a SpeciesBatch or TokenBatch as the objective reads them, in the
model's species order; in training, the same on all ranks."""
