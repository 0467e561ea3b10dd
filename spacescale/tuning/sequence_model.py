"""A pretrained trunk with new layers on top: one answer per sequence.

Shapes: B sequences, F features, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from spacescale.model.layers import BatchNorm
from spacescale.tuning.settings import Mode
from spacescale.tuning.trunk import Trunk


class SequenceModel(nn.Module):
    """Pooled features of a trunk, and the layers that a task adds."""

    def __init__(self, trunk: Trunk, outputs: int):
        super().__init__()
        self.trunk, self.trunk_learns = trunk, True
        self.taught: frozenset[str] = frozenset()  # parameters of which one species' row learns
        self.add_module(trunk.name, trunk.module)
        self.head = trunk.head(outputs)

    def train(self, mode: bool = True) -> Self:
        """Go into training mode or out of it; a trunk that does not learn stays in evaluation."""
        super().train(mode)
        if not self.trunk_learns:
            self.trunk.module.eval()
        return self

    def forward(self, sequences: Sequence[Tensor]) -> Tensor:
        """Tensors as the trunk's encoding makes them, of B_g sequences → outputs (Σ B_g, C).

        One may also be the pooled features of sequences, float32 (B_g, F).
        """
        found = [x if x.is_floating_point() else self.features(x) for x in sequences]
        return self.head(torch.cat(found))

    def features(self, rows: Tensor) -> Tensor:
        """A tensor of the trunk's encoding, of B sequences → pooled features (B, F)."""
        return self.trunk.features(rows)

    @property
    def num_trained(self) -> int:
        """How many numbers `choose_trained` lets learn."""
        return sum(
            p.numel() // (len(p) if name in self.taught else 1)
            for name, p in self.named_parameters()
            if p.requires_grad
        )


def choose_trained(model: SequenceModel, mode: Mode, lora_rank: int, live_batchnorm: bool) -> None:
    """Freeze what a mode does not train.

    full: all that features depend on. lora: matrices of rank `lora_rank` beside those that the
    trunk names (peft's), as far as features depend on them, and what it has to be `taught`. head:
    the new layers alone. BatchNorm keeps the statistics of pretraining, unless live_batchnorm,
    which only `full` can have. Raises UserError where adapters would change no feature.
    """
    trunk, module = model.trunk, model.trunk.module
    taught = trunk.taught if mode != "head" else frozenset()
    module.requires_grad_(mode == "full")
    if mode == "lora":
        _add_adapters(trunk, lora_rank)
    for name, parameter in module.named_parameters():
        if name in taught:
            parameter.requires_grad_(True)
        elif name.startswith(trunk.unused):
            parameter.requires_grad_(False)
    model.taught = frozenset(f"{trunk.name}.{name}" for name in taught)
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.frozen = not live_batchnorm
    model.trunk_learns = mode != "head"


def _add_adapters(trunk: Trunk, rank: int) -> None:
    import peft

    modules, parameters = trunk.adapted()
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=modules, target_parameters=parameters
        ),
        trunk.module,
    )


def merge_adapters(model: SequenceModel) -> None:
    """Add what adapters learnt to the weights beside which they stand, and take them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    module = model.trunk.module
    for name, layer in [*module.named_modules()][::-1]:
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            module.set_submodule(name, layer.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
