"""What the loader hands to the trainer."""

from __future__ import annotations

from collections.abc import Callable
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
    """What is done with all tensors of a dataclass, and of those that it holds."""

    def to(self, device: torch.device) -> Self:
        """Copy to a device; asynchronous from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of tensors made on another stream until `stream` is done with them."""

        def keep(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        self._map(keep)

    def pin_memory(self) -> Self:
        """Called by torch's DataLoader."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, Tensors):
                changed[field.name] = value._map(change)
        return replace(self, **changed)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class HiddenBases(Tensors):
    """Bases that are hidden from the model in some windows of a batch, M in all of them together.

    windows: the places of these windows in the batch, ascending. on_all_ranks: how many there are.
    """

    windows: tuple[int, ...]
    places: Tensor  # (M,) int64: in the bases of these windows, one after another
    bases: Tensor  # (M,) int64, A0 C1 G2 T3: what is to be predicted
    in_repeats: Tensor  # (M,) bool
    on_all_ranks: int


@dataclass(frozen=True)
class SpeciesBatch(Tensors):
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
