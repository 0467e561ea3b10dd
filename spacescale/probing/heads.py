"""The heads of Tang and Koo (2024) on frozen features, and their networks on one-hot bases.

Those of lentiMPRA, ChIP- and eCLIP-seq, splicing and INSERT-seq, as described in the paper and its
code; initial weights and BatchNorm are PyTorch's. Where a pool is wider than what is left of a
sequence, as with few bins of a binned model, it takes all of it.

Shapes: B sequences, C channels, P positions, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, max_pool1d, silu

from spacescale.tasks.task import Assay

HEADS_OF: tuple[Assay, ...] = get_args(Assay)
Build = Callable[[tuple[int, ...], int], nn.Module]


@dataclass(frozen=True)
class Recipe:
    """How a head is made and learnt.

    build: the shape of its inputs, (C, P) or (C,), and the number of outputs → the network.
    """

    build: Build
    lr: float
    batch_size: int
    epochs: int = 100
    weight_decay: float = 0.0


def mlp(of: Assay) -> Recipe:
    """Two hidden layers on a vector of each sequence."""
    return Recipe(_mlp, 1e-4 if of in ("lentimpra", "insertseq") else 1e-3, 512)


def cnn(of: Assay, embedded: bool) -> Recipe:
    """The convolutions of a task. embedded: on features, not on one-hot bases."""
    if of == "lentimpra":
        build = _lentimpra(embedded)
        return Recipe(build, 1e-4, 64) if embedded else Recipe(build, 1e-3, 128)
    if of == "chip":
        return Recipe(_chip(embedded), 1e-3, 256)
    if of == "splicing":
        return Recipe(_Splicing, 1e-3, 256)
    return Recipe(_insertseq(embedded), 1e-4 if embedded else 1e-3, 128, 200, 1e-8)


def residual_bind() -> Recipe:
    """The strong network on one-hot bases."""
    return Recipe(_residual_bind, 1e-3, 128)


class Pool(nn.Module):
    """The maximum, or another figure, of every `size` positions; of all where there are fewer."""

    def __init__(self, size: int, of: Callable[[Tensor, int], Tensor] = max_pool1d):
        super().__init__()
        self.size, self.of = size, of

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) → (B, C, P // size), at least one."""
        return self.of(x, min(self.size, x.shape[-1]))


class Exponential(nn.Module):
    """e^x, which makes first filters easy to read."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x.exp()


def _conv(inputs: int, outputs: int, width: int, bias: bool = True) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, width, padding="same", bias=bias)


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.5)]


def _flat(body: nn.Module, shape: tuple[int, ...]) -> int:
    """How many numbers a body makes of inputs of a shape."""
    with torch.no_grad():
        return body.eval()(torch.zeros(1, *shape)).flatten(1).shape[1]


def _mlp(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(*_dense(shape[0], 512), *_dense(512, 256), nn.Linear(256, outputs))


def _narrowed(shape: tuple[int, ...], channels: int, embedded: bool) -> tuple[list[nn.Module], int]:
    """Features are normed and brought to so many channels; bases stay as they are."""
    if not embedded:
        return [], shape[0]
    return [nn.BatchNorm1d(shape[0]), nn.Conv1d(shape[0], channels, 1)], channels


def _lentimpra(embedded: bool) -> Build:
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        narrowed, channels = _narrowed(shape, 196, embedded)
        body = nn.Sequential(
            *narrowed,
            *(_conv(channels, 196, 7), nn.BatchNorm1d(196), Exponential(), nn.Dropout(0.2)),
            Pool(5),
            *(_conv(196, 256, 7), nn.BatchNorm1d(256), nn.ReLU(), Pool(4), nn.Dropout(0.2)),
        )
        dense = [*_dense(_flat(body, shape), 512), *_dense(512, 256)]
        return nn.Sequential(body, nn.Flatten(), *dense, nn.Linear(256, outputs))

    return build


def _pooled(inputs: int, outputs: int, width: int, pool: int) -> nn.Module:
    return nn.Sequential(
        _conv(inputs, outputs, width), nn.BatchNorm1d(outputs), nn.ReLU(), Pool(pool),
        nn.Dropout(0.2),
    )  # fmt: skip


def _chip(embedded: bool) -> Build:
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        narrowed, channels = _narrowed(shape, 512, embedded)
        body = nn.Sequential(
            *narrowed, _pooled(channels, 64, 7, 4), _pooled(64, 96, 5, 4), _pooled(96, 128, 5, 2)
        )
        dense = _dense(_flat(body, shape), 256)
        return nn.Sequential(body, nn.Flatten(), *dense, nn.Linear(256, outputs))

    return build


class _Splicing(nn.Module):
    """A tower for each half of the sequence: acceptor and donor, each `side` positions."""

    def __init__(self, shape: tuple[int, ...], outputs: int):
        super().__init__()
        self.side = -(-shape[1] // 2)
        self.left, self.right = (_pooled(shape[0], 128, 7, 4) for _ in range(2))
        self.joined = nn.Sequential(_pooled(128, 164, 5, 4), _pooled(164, 256, 5, 2))
        with torch.no_grad():
            width = self.eval()._towers(torch.zeros(1, *shape)).shape[1]
        self.out = nn.Sequential(*_dense(width, 256), *_dense(256, 256), nn.Linear(256, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) → (B, O)."""
        return self.out(self._towers(x))

    def _towers(self, x: Tensor) -> Tensor:
        # A single position belongs to both halves.
        left, right = x[..., : self.side], x[..., x.shape[-1] - self.side :]
        joined = torch.cat([self.left(left), self.right(right)], dim=-1)
        return self.joined(joined).flatten(1)


class _Residual(nn.Module):
    """Dilated convolutions of three positions beside what they begin with."""

    def __init__(self, channels: int, dilations: tuple[int, ...], activation: nn.Module):
        super().__init__()
        layers: list[nn.Module] = []
        for dilation in dilations:
            if layers:
                layers += [activation, nn.Dropout(0.1)]
            layers += [
                nn.Conv1d(channels, channels, 3, padding="same", dilation=dilation, bias=False),
                nn.BatchNorm1d(channels),
            ]
        self.layers, self.activation = nn.Sequential(*layers), activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) → the same."""
        return self.activation(x + self.layers(x))


def _insertseq(embedded: bool) -> Build:
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        channels = 48 if embedded else shape[0]
        narrowed = [nn.Conv1d(shape[0], 48, 1)] if embedded else []
        return nn.Sequential(
            *narrowed,
            *(_conv(channels, 96, 19, False), nn.BatchNorm1d(96), Exponential(), nn.Dropout(0.1)),
            *(_Residual(96, (1, 2, 4), nn.ReLU()), Pool(10), nn.Dropout(0.1)),
            *(_conv(96, 128, 7, False), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.AdaptiveAvgPool1d(1), nn.Dropout(0.1), nn.Flatten()),
            *(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, outputs)),
        )

    return build


class _Pointwise(nn.Module):
    """A dense layer of each position."""

    def __init__(self, channels: int):
        super().__init__()
        self.dense, self.norm = nn.Conv1d(channels, 256, 1), nn.BatchNorm1d(256)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) → (B, 256, P)."""
        return self.dropout(silu(self.norm(self.dense(x))))


def _residual_bind(shape: tuple[int, ...], outputs: int) -> nn.Module:
    body = nn.Sequential(
        *(_conv(shape[0], 196, 19), nn.BatchNorm1d(196), nn.SiLU(), nn.Dropout(0.2)),
        *(_Residual(196, (1, 1, 2, 4, 8, 16), nn.SiLU()), nn.Dropout(0.2), Pool(5)),
        *(_conv(196, 256, 7), nn.BatchNorm1d(256), nn.SiLU(), nn.Dropout(0.2), Pool(5)),
        *(_Pointwise(256), Pool(2, avg_pool1d)),
    )
    width = _flat(body, shape)
    return nn.Sequential(
        *(body, nn.Flatten(), nn.Linear(width, 256), nn.BatchNorm1d(256), nn.SiLU()),
        *(nn.Dropout(0.5), nn.Linear(256, outputs)),
    )
