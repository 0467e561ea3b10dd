"""Tensors onto the disk, hashed while they are written and read back before they count.

What is written are ordinary safetensors files: the length of the header (8 bytes, little-endian),
the header (JSON), the bytes of the tensors one after the other. They are written here because the
library keeps the interpreter's lock and makes another copy of every tensor, so that training would
stop after all; and because only what writes can hash on the way.

A thread may call all of this beside training: NumPy and hashlib let go of the lock, and start no
threads of their own as torch's operations do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacescale.errors import UserError
from spacescale.files import forget_cached

CHUNK = 2**20  # bytes that are written, hashed and compared at a time
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Written:
    """What the manifest says of a file."""

    bytes: int
    sha256: str


@dataclass
class Progress:
    """How far the saving thread of a rank has come, for others to look at."""

    bytes_done: int = 0  # written, and once more when they are read back


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, progress: Progress | None = None
) -> Written:
    """Write tensors of any device to a safetensors file, force it onto the disk, read it back.

    Raises UserError for numbers that are not finite, where the disk will not take the file, and
    where it gives back another.
    """
    progress = progress or Progress()
    require_finite(tensors, path)
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:  # what lies there may be mapped into memory
            for part in _parts(tensors):
                file.write(part.data)
                digest.update(part.data)
                size += len(part)
                progress.bytes_done += len(part)
        _read_back(path, tensors, progress)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return Written(size, digest.hexdigest())


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError, naming the file they are for or of, where a number is NaN or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise UserError(f"{path}: {name} is not finite; no sound checkpoint can hold it")


def _is_finite(tensor: Tensor) -> bool:
    if tensor.dtype == torch.float32:
        return bool(np.isfinite(tensor.detach().cpu().numpy()).all())
    return bool(tensor.isfinite().all())  # few, and some that NumPy lacks


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[np.ndarray]:
    """The bytes of the file, at most CHUNK at a time: uint8 (n,)."""
    # As the library orders them: large elements first, so that each lies on a multiple of its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    yield np.frombuffer(_header({name: tensors[name] for name in names}), dtype=np.uint8)
    for name in names:
        numbers = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        for start in range(0, len(numbers), CHUNK):
            yield numbers[start : start + CHUNK]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_back(path: Path, tensors: Mapping[str, Tensor], progress: Progress) -> None:
    forget_cached(path)
    with path.open("rb") as file:
        found = np.empty(CHUNK, dtype=np.uint8)
        for part in _parts(tensors):
            if len(part) > len(found):  # a long header
                found = np.empty(len(part), dtype=np.uint8)
            length = file.readinto(found[: len(part)].data)
            if length != len(part) or not np.array_equal(found[:length], part):
                raise UserError(f"{path}: read back from the disk, it is not what was written")
            progress.bytes_done += length
        if file.read(1):
            raise UserError(f"{path}: longer on the disk than what was written")


class HostCopy:
    """Memory of the host that takes a copy of tensors; the same for every save.

    New memory costs several times what the copy does. On a GPU's host it is pinned.
    """

    def __init__(self, num_numbers: int, pinned: bool):
        """num_numbers: of all tensors together, float32."""
        self.flat = torch.empty(num_numbers, pin_memory=pinned)
        self.flat.zero_()  # once touched, it is there

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy float32 tensors (n,) of any device; what is returned stays until the next call."""
        copies, end = {}, 0
        for name, tensor in tensors.items():
            start, end = end, end + len(tensor)
            copies[name] = self.flat[start:end].copy_(tensor.detach(), non_blocking=True)
        if self.flat.is_pinned():
            torch.cuda.synchronize()
        return copies
