"""Features of all sequences of a task, computed once; and what heads learn from besides.

They lie on the disk as float16, and are read as they are needed: memory does not grow with the
number of sequences. Shapes: N sequences, B of a batch, P positions, C channels, L bp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.kmers import kmer_ids
from spacescale.model.space import Space
from spacescale.probing.feeding import Feeder
from spacescale.tasks.task import Examples
from spacescale.tuning.batches import Reader
from spacescale.tuning.encoding import Bases


class Inputs(Protocol):
    """What a head learns from, of the sequences of one split."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sequence: (C, P), or (C,)."""
        ...

    def batch(self, rows: np.ndarray) -> Tensor:
        """Float32 (B, C, P) or (B, C) of these rows."""
        ...


@dataclass(frozen=True)
class PositionFeatures:
    """values: float16 (N, P, C), perhaps on the disk, 0 behind the last position of a sequence."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, P)."""
        return self.values.shape[2], self.values.shape[1]

    def batch(self, rows: np.ndarray) -> Tensor:
        """Float32 (B, C, P)."""
        found = torch.from_numpy(np.asarray(self.values[rows], dtype=np.float32))
        return found.transpose(1, 2).contiguous()


@dataclass(frozen=True)
class Vectors:
    """values: float32 (N, C), a vector of each sequence."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,)."""
        return self.values.shape[1:]

    def batch(self, rows: np.ndarray) -> Tensor:
        """Float32 (B, C)."""
        return torch.from_numpy(self.values[rows])


@dataclass(frozen=True)
class OneHot:
    """Bases as they stand; `length`: to which shorter sequences are filled up with N, zeros."""

    examples: Examples
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(4, L)."""
        return dna.N, self.length

    def batch(self, rows: np.ndarray) -> Tensor:
        """Float32 (B, 4, L)."""
        codes = np.full((len(rows), self.length), dna.N, dtype=np.uint8)
        for i, row in enumerate(rows.tolist()):
            codes[i, : len(self.examples.codes[row])] = self.examples.codes[row]
        bases = one_hot(torch.from_numpy(codes).long(), dna.N + 1)[..., : dna.N]
        return bases.float().transpose(1, 2)


def dinucleotides(examples: Examples) -> Vectors:
    """How frequent each of the 16 is in each sequence; those with an N are not counted."""
    found = np.zeros((len(examples), 16), dtype=np.float32)
    for row, codes in enumerate(examples.codes):
        ids = kmer_ids(codes, 2)
        counts = np.bincount(ids[ids < 16], minlength=16)
        found[row] = counts / max(1, counts.sum())
    return Vectors(found)


@dataclass(frozen=True)
class Trunk:
    """A frozen model that gives features of one layer for one species, and how it is fed."""

    space: Space
    species: str
    layer: str
    feeder: Feeder
    device: torch.device

    def of_split(self, examples: Examples) -> Trunk:
        """For the rows of these sequences."""
        return replace(self, feeder=self.feeder.of_split(examples))

    @torch.inference_mode()
    def width(self) -> tuple[int, int]:
        """Of a position of the layer in bp, and its channels."""
        bin_size = self.space.config.bin_size
        one_bin = torch.zeros(1, bin_size, dtype=torch.uint8, device=self.device)
        found = self.space.embed(one_bin, self.species, self.layer)
        return bin_size // found.shape[1], found.shape[2]

    def features(self, shown: Tensor, length: int, width: int) -> Tensor:
        """Of the positions that hold the sequence (B, P, C); differentiable by bases.

        shown: what the feeder made of sequences of `length` bp, codes (B, W) or bases (B, 4, W).
        """
        first = self.feeder.first(length) // width
        found = self.space.embed(shown, self.species, self.layer)
        return found[:, first : first - (-length // width)]


def write_features(trunk: Trunk, examples: Examples, as_is: int | None, path: Path) -> tuple[
    PositionFeatures, Vectors
]:  # fmt: skip
    """Features of all sequences of a split by position, kept in a .npy file, and their means.

    as_is: the only length of a task's sequences, see `Bases`; means are over the positions that
    hold bases. Raises UserError where a feature is too large for float16 or not finite.
    """
    trunk = trunk.of_split(examples)
    trunk.space.eval()
    width, channels = trunk.width()
    reader = Reader(examples, Bases(trunk.space.config.bin_size, as_is))
    longest = int(examples.lengths.max())
    shown_bp = longest if trunk.feeder.feed == "alone" else trunk.feeder.window
    shape = (len(examples), -(-longest // width), channels)
    kept = np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=shape)
    means = np.zeros((len(examples), channels), dtype=np.float32)
    bar = tqdm(total=len(examples), unit="sequence", desc=path.stem, disable=None, leave=False)
    for batch in reader.in_order(0, 1, shown_bp):
        done = 0
        for codes in batch.groups:
            rows = batch.rows[done : done + len(codes)]
            done += len(codes)
            found = _drawn(trunk, codes.numpy(), rows, width)
            lengths = examples.lengths[rows]
            held = np.arange(found.shape[1]) < -(-lengths[:, None] // width)  # (B, P)
            found *= held[..., None]
            means[rows] = found.sum(1) / held.sum(1, keepdims=True)
            number = min(found.shape[1], shape[1])
            with np.errstate(over="ignore"):
                kept[rows, :number] = found[:, :number]
            if not np.isfinite(kept[rows]).all():
                raise UserError(
                    f"layer {trunk.layer}: features of {examples.names[int(rows[0])]} or one "
                    "beside it are not finite in float16; expected at most 65504"
                )
        bar.update(len(batch.rows))
    bar.close()
    return PositionFeatures(kept), Vectors(means)


@torch.inference_mode()
def _drawn(trunk: Trunk, codes: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    """Features (B, P, C) of codes (B, L), the mean over draws of flanks."""
    feeder, found = trunk.feeder, []
    for draw in range(feeder.draws):
        shown = torch.from_numpy(feeder.fed(codes, rows, draw)).to(trunk.device)
        found.append(trunk.features(shown, codes.shape[1], width))
    return torch.stack(found).mean(0).float().cpu().numpy()
