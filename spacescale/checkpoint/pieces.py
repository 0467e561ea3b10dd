"""Parameters and optimiser state on disk, in pieces that any layout of processes can read.

A piece is a stretch of one parameter as plain PyTorch has it, flattened, with the experts of all
processes in one tensor. `state-RRRRR.safetensors` holds the pieces that a rank owned, named
`FIELD/PARAMETER/START`; the pieces of all files tile every parameter. Buffers, alike on all ranks,
lie whole in `buffers.safetensors`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spacescale.errors import UserError
from spacescale.files import forget_cached

WEIGHT = "weight"
FIELDS = (WEIGHT, "exp_avg", "exp_avg_sq")  # a weight in float32 and Adam's two moments


@dataclass(frozen=True)
class Piece:
    """Numbers `start` … of a flattened parameter: field → (n,)."""

    parameter: str
    start: int
    fields: dict[str, Tensor]


def write_pieces(checkpoint: Path, rank: int, pieces: list[Piece]) -> None:
    """Write one rank's pieces."""
    tensors = {
        f"{field}/{piece.parameter}/{piece.start}": tensor.to("cpu", copy=True)
        for piece in pieces
        for field, tensor in piece.fields.items()
    }
    save_tensors(tensors, checkpoint / f"state-{rank:05d}.safetensors")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file and read them back from the disk.

    Raises UserError for numbers that are not finite, where the disk will not take the file, and
    where it gives back another.
    """
    require_finite(tensors, path)
    try:
        save_file(tensors, path)
        forget_cached(path)
        with safe_open(path, "pt") as file:
            differ = [n for n, t in tensors.items() if not _same_bits(t, file.get_tensor(n))]
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from None
    if differ:
        raise UserError(f"{path}: read back from the disk, {differ[0]} is not what was written")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree to the bit: −0 is not 0 here."""
    return one.flatten().view(torch.uint8).equal(other.flatten().view(torch.uint8))


def require_finite(tensors: dict[str, Tensor], source: Path) -> None:
    """Raise UserError naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{source}: {name} is not finite; no sound checkpoint can hold it")


def require_finite_buffers(checkpoint: Path) -> None:
    """Raise UserError where a checkpoint's buffers are not finite: no run recovers from them."""
    path = checkpoint / "buffers.safetensors"
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


def write_buffers(checkpoint: Path, model: nn.Module) -> None:
    """Write a model's buffers."""
    buffers = {name: buffer.cpu() for name, buffer in buffers_of(model).items()}
    save_tensors(buffers, checkpoint / "buffers.safetensors")


def read_buffers(checkpoint: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read the buffers of `model`. UserError if they cannot be read or are of another model."""
    path = checkpoint / "buffers.safetensors"
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
            file: Any = safe_open(path, "pt")  # its type stubs lack the methods
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

    def check(self, sizes: dict[str, int]) -> None:
        """Raise UserError unless every field of each of these parameters is there, once and whole.

        `sizes` are the numbers in each parameter.
        """
        known = {parameter for _, parameter in self.stored}
        for word, names in (("lacks", sizes.keys() - known), ("also holds", known - sizes.keys())):
            if names:
                raise UserError(
                    f"{self.checkpoint}: {word} {len(names)} parameters, the first {min(names)}; a "
                    "state-*.safetensors file is missing or of another model"
                )
        for parameter, size in sizes.items():
            for field in FIELDS:
                self._check_tiling(field, parameter, size)

    def _check_tiling(self, field: str, parameter: str, size: int) -> None:
        end = 0
        for piece in self.stored[field, parameter]:
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
