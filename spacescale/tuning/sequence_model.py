"""A pretrained trunk with a linear layer on top: one answer per sequence.

Shapes: B sequences, L bp, N bins, F features of a bin, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from spacescale.genome.dna import N
from spacescale.model.layers import BatchNorm
from spacescale.model.space import Space

Mode = Literal["full", "lora", "head"]
Pool = Literal["mean", "sum", "max"]
POOLS: tuple[Pool, ...] = get_args(Pool)
NOT_EMBEDDING = ("heads.", "decoder.")  # what `Space.embed` does not use
ATTENTION, DENSE = ["to_q", "to_k", "to_v", "to_out"], ["moe.input", "moe.output"]

ADAPTED_OF_EXPERTS = ("w1", "w2")


class SequenceModel(nn.Module):
    """Features of a `Space`, pooled over the bins of a sequence, and a linear layer.

    The sequence stands alone, as in the paper's fine-tuning: no genome around it, no window of the
    pretraining's length. What is pooled are the positions up to that of its last known base.
    """

    def __init__(self, space: Space, species: str, outputs: int, layer: str, pool: Pool):
        super().__init__()
        self.space, self.species, self.layer = space, species, layer
        self.pool: Pool = pool
        self.trunk_learns = True
        like = torch.zeros(1, space.config.bin_size, dtype=torch.uint8)
        with torch.no_grad():
            was_training = space.training
            width = space.eval().embed(like.to(_device(space)), species, layer).shape[-1]
            space.train(was_training)
        self.head = nn.Linear(width, outputs)

    def train(self, mode: bool = True) -> Self:
        """Go into training mode or out of it; a trunk that does not learn stays in evaluation."""
        super().train(mode)
        if not self.trunk_learns:
            self.space.eval()
        return self

    def forward(self, sequences: Sequence[Tensor]) -> Tensor:
        """Groups of base codes (B_g, L_g) uint8, each of one length → outputs (Σ B_g, C).

        A group may also be the pooled features of sequences, float32 (B_g, F).
        """
        found = [x if x.is_floating_point() else self.features(x) for x in sequences]
        return self.head(torch.cat(found))

    def features(self, codes: Tensor) -> Tensor:
        """Codes (B, L) uint8 of one length → pooled features (B, F)."""
        found = self.space.embed(codes, self.species, self.layer)
        number, length = found.shape[1], codes.shape[1]
        # A sequence ends with its last known base: what fills it up is not pooled.
        place = torch.arange(1, length + 1, device=codes.device)
        end = torch.where(codes < N, place, 1).amax(1)  # (B,)
        used = -(-end * number // length)
        real = torch.arange(number, device=codes.device) < used[:, None]  # (B, N)
        if self.pool == "max":
            return found.masked_fill(~real[..., None], -torch.inf).amax(1)
        total = (found * real[..., None]).sum(1)
        return total if self.pool == "sum" else total / used[:, None]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def choose_trained(model: SequenceModel, mode: Mode, lora_rank: int, live_batchnorm: bool) -> None:
    """Freeze what a mode does not train.

    full: all that features depend on. lora: matrices of rank `lora_rank` beside those of the
    attention and the experts (peft's). head: the linear layer alone. BatchNorm keeps the statistics
    of pretraining, unless live_batchnorm, which only `full` can have.
    """
    space = model.space
    for name, parameter in space.named_parameters():
        parameter.requires_grad_(mode == "full" and not name.startswith(NOT_EMBEDDING))
    if mode == "lora":
        _add_adapters(space, lora_rank)
    for module in space.modules():
        if isinstance(module, BatchNorm):
            module.frozen = not live_batchnorm
    model.trunk_learns = mode != "head"


def _add_adapters(space: Space, rank: int) -> None:
    import peft

    experts = [
        name
        for name, _ in space.named_parameters()
        if name.startswith("transformer.") and name.split(".")[-1] in ADAPTED_OF_EXPERTS
    ]
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=ATTENTION if experts else [*ATTENTION, *DENSE],
            target_parameters=experts,
        ),
        space,
    )


def merge_adapters(model: SequenceModel) -> None:
    """Add what adapters learnt to the weights beside which they stand, and take them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [*model.space.named_modules()][::-1]:
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.space.set_submodule(name, layer.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
