"""What a fine-tuning asks of the model that it trains: SPACE and encoders of tokens alike.

Shapes: B sequences, P positions (bins or tokens), F features, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from spacescale.tuning.batches import Reader
from spacescale.tuning.encoding import Encoding
from spacescale.tuning.settings import Pool


class Adapted(NamedTuple):
    """Weights that adapters stand beside, as peft takes them.

    modules: with what the names of linear layers end. parameters: names of stacked weights.
    """

    modules: list[str]
    parameters: list[str]


class Trunk(ABC):
    """A model that a task's last layers stand on.

    module: what has its parameters; name: how it is called in a `SequenceModel` and its files.
    unused: with what the names of parameters begin on which features do not depend. width: F.
    taught: parameters with a row for each species, of which that of a new one begins as another's:
    it learns beside adapters, too, and with a rate of its own.
    """

    name: ClassVar[str]
    unused: tuple[str, ...]
    taught: frozenset[str] = frozenset()
    module: nn.Module
    pool: Pool
    width: int

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What it is, without its weights, as kept models remember it."""

    @abstractmethod
    def encoding(self, lengths: Collection[int], live_batchnorm: bool) -> Encoding:
        """What makes its input of sequences of these lengths, in bp, all there are in a task.

        live_batchnorm: rows of all tensors have one length, so that statistics are those of whole
        batches and all processes take part in them alike.
        """

    @abstractmethod
    def features(self, rows: Tensor) -> Tensor:
        """What its encoding made of B sequences → pooled features (B, F)."""

    @abstractmethod
    def adapted(self) -> Adapted:
        """Which weights adapters stand beside. Raises UserError where features depend on none."""

    def head(self, outputs: int) -> nn.Module:
        """New layers (B, F) → (B, C)."""
        return nn.Linear(self.width, outputs)

    def measure_statistics(self, reader: Reader) -> None:
        """Take what fresh weights have none of, and need while they are frozen, from sequences."""
        return


def pooled(found: Tensor, counted: Tensor, pool: Pool) -> Tensor:
    """Features (B, P, F) of those positions that count, bool (B, P), one at least → (B, F)."""
    if pool == "max":
        return found.masked_fill(~counted[..., None], -torch.inf).amax(1)
    total = (found * counted[..., None]).sum(1)
    return total if pool == "sum" else total / counted.sum(1)[:, None]


def device_of(module: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(module.parameters()).device
