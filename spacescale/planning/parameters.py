"""Parameters of a model, counted without memory for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from spacescale.config import AnyModel
from spacescale.model.encoder import Encoder
from spacescale.model.layers import ConvBlock
from spacescale.model.moe import RoutedExperts
from spacescale.model.space import meta_model
from spacescale.space_config import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Sizes of a model's parameters, in elements."""

    total: int
    active: int  # that one token meets: of each block's experts, the top k
    experts: int  # of the cross-species MoE, which expert parallelism spreads over processes


def count_parameters(config: AnyModel) -> ParameterCounts:
    """Count the parameters of the model that `config` describes."""
    model = _on_meta(config)
    total = _size(model)
    if not isinstance(config, ModelConfig):
        return ParameterCounts(total, total, 0)
    experts = _size_of_all(model, RoutedExperts)
    idle = experts * (config.species_num_experts - config.species_top_k)
    return ParameterCounts(total, total - idle // max(config.species_num_experts, 1), experts)


def autocast_parameters(config: ModelConfig, ep_size: int) -> float:
    """Parameters of one process whose 16-bit copies autocast keeps for the backward pass.

    Convolution blocks and recomputed stages make them anew.
    """
    held = 0.0
    for name, stage in meta_model(config).named_children():
        if name not in config.checkpoint_stages:
            elsewhere = (1 - 1 / ep_size) * _size_of_all(stage, RoutedExperts)
            held += _size(stage) - _size_of_all(stage, ConvBlock) - elsewhere
    return held


def autocast_layer_parameters(config: AnyModel) -> int:
    """Parameters whose gradients DeepSpeed sends in bf16 under `torch_autocast`, by layer type."""
    layers = (m for m in _on_meta(config).modules() if type(m) in (nn.Linear, nn.Conv1d))
    return sum(_size(layer) for layer in layers)


def _on_meta(config: AnyModel) -> nn.Module:
    if isinstance(config, ModelConfig):
        return meta_model(config)
    with torch.device("meta"):
        return Encoder(config)


def _size_of_all(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(_size(module) for module in model.modules() if isinstance(module, kind))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
