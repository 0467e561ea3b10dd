"""Parameters and optimiser state on disk, in pieces that any layout of processes can read.

A piece is a stretch of one parameter as plain PyTorch has it, flattened, with the experts of all
processes in one tensor. `state-RRRRR.safetensors` holds the pieces that a rank owned, named
`FIELD/PARAMETER/START`; the pieces of all files tile every parameter. Buffers, alike on all ranks,
lie whole in `buffers.safetensors`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from spacescale.checkpoint.writing import require_finite
from spacescale.errors import UserError

BUFFERS = "buffers.safetensors"
WEIGHT = "weight"
FIELDS = (WEIGHT, "exp_avg", "exp_avg_sq")  # a weight in float32 and Adam's two moments


@dataclass(frozen=True)
class Piece:
    """Numbers `start` … of a flattened parameter: field → (n,)."""

    parameter: str
    start: int
    fields: dict[str, Tensor]


def name_pieces(pieces: Iterable[Piece]) -> dict[str, Tensor]:
    """The fields of pieces under the names that they have on disk: → (n,)."""
    return {
        f"{field}/{piece.parameter}/{piece.start}": tensor
        for piece in pieces
        for field, tensor in piece.fields.items()
    }


def state_file(rank: int) -> str:
    """Where the pieces of a rank lie in a checkpoint."""
    return f"state-{rank:05d}.safetensors"


def require_finite_buffers(checkpoint: Path) -> None:
    """Raise UserError where a checkpoint's buffers are not finite: no run recovers from them."""
    path = checkpoint / BUFFERS
    require_finite(read_tensors(path), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; UserError where it is missing or damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that belong to a model's state."""
    parameters = {name for name, _ in model.named_parameters()}
    return {name: t for name, t in model.state_dict().items() if name not in parameters}


def read_buffers(checkpoint: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read the buffers of `model`. UserError if they cannot be read or are of another model."""
    path = checkpoint / BUFFERS
    stored = read_tensors(path)
    expected = {name: (t.shape, t.dtype) for name, t in buffers_of(model).items()}
    found = {name: (t.shape, t.dtype) for name, t in stored.items()}
    if differ := {name for name, _ in found.items() ^ expected.items()}:
        raise UserError(f"{path}: {min(differ)} is not as the model has it")
    return stored


@dataclass(frozen=True)
class _Stored:
    """Where numbers start … stop of a parameter's field lie."""

    start: int
    stop: int
    tensor: Any  # safetensors' handle, of which slices are read


class StoredPieces:
    """The pieces of a checkpoint's files; only what is asked for is read."""

    def __init__(self, checkpoint: Path):
        """Raises UserError for a file that cannot be read or holds anything but pieces."""
        self.checkpoint = checkpoint
        self.stored: dict[tuple[str, str], list[_Stored]] = defaultdict(list)
        for path in sorted(checkpoint.glob("state-*.safetensors")):
            self._index(path)
        for stored in self.stored.values():
            stored.sort(key=lambda piece: piece.start)

    def _index(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, "pt", backend="pread")  # its type stubs lack the methods
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
        for key in file.keys():  # noqa: SIM118  not a dict
            tensor = file.get_slice(key)
            field, _, rest = key.partition("/")
            parameter, _, start = rest.rpartition("/")
            shape = tensor.get_shape()
            is_piece = field in FIELDS and start.isdigit() and len(shape) == 1
            if not is_piece or tensor.get_dtype() != "F32":
                raise UserError(f"{path}: {key!r} is not a piece of a parameter")
            stored = _Stored(int(start), int(start) + shape[0], tensor)
            self.stored[field, parameter].append(stored)

    def check(self, sizes: dict[str, int], trained: Collection[str] = ()) -> None:
        """Raise UserError unless every field of each of these parameters is there, once and whole.

        `sizes` are the numbers in each parameter. Parameters that were frozen have a weight alone;
        those of `trained` must have moments.
        """
        known = {parameter for _, parameter in self.stored}
        for word, names in (("lacks", sizes.keys() - known), ("also holds", known - sizes.keys())):
            if names:
                raise UserError(
                    f"{self.checkpoint}: {word} {len(names)} parameters, the first {min(names)}; a "
                    "state-*.safetensors file is missing or of another model"
                )
        for parameter, size in sizes.items():
            has_moments = any((field, parameter) in self.stored for field in FIELDS[1:])
            for field in FIELDS if has_moments or parameter in trained else (WEIGHT,):
                self._check_tiling(field, parameter, size)

    def _check_tiling(self, field: str, parameter: str, size: int) -> None:
        end = 0
        for piece in self.stored.get((field, parameter), []):
            if piece.start != end:
                break
            end = piece.stop
        if end != size:
            raise UserError(
                f"{self.checkpoint}: {field} of {parameter} is whole for {end} of {size} numbers "
                "only; a state-*.safetensors file is missing or of another checkpoint"
            )

    def read(self, field: str, parameter: str, start: int, stop: int) -> Tensor:
        """Numbers start … stop of a flattened parameter's field, from all files that hold some."""
        parts = [
            piece.tensor[
                max(start, piece.start) - piece.start : min(stop, piece.stop) - piece.start
            ]
            for piece in self.stored[field, parameter]
            if piece.start < stop and start < piece.stop
        ]
        return torch.cat(parts)
