"""What hidden bases cost beside profiles: mask code and head of model/hybrid.py.

Nothing where the objective has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from spacescale.bases_config import mean_masked_share
from spacescale.config import Config
from spacescale.model.hybrid import OWN, HybridSpace
from spacescale.planning.flops import STEM_KERNEL, StageFlops, products, tower_stages
from spacescale.planning.parameters import ParameterCounts

HEAD_KERNEL, STAGE = 3, "bases"


def _hides(config: Config) -> bool:
    return config.objective == "profiles+bases"


def _levels(config: Config) -> list[tuple[int, int]]:
    """(positions, channels) of what the trunk pools, finest level first."""
    model = config.space
    finest = (model.seq_length, model.stem_channels)
    return [finest, *((length, c_out) for length, _, c_out in tower_stages(model))]


def bases_flops(config: Config, windows: Mapping[str, int]) -> dict[str, StageFlops]:
    """Work for a micro-batch of that many windows, as many of them masked as in the mean of a run.

    The last layer, of hidden bases alone, is left out.
    """
    if not _hides(config):
        return {}
    model, batch = config.space, sum(windows.values())
    width = config.bases.width_of_head(model.stem_channels)
    trackless = not all(model.species.values())
    masked = batch * mean_masked_share(config.bases, config.optim.max_steps, trackless)
    bins = model.seq_length // model.bin_size
    head = products(masked * bins, model.dim, width)
    for positions, channels in _levels(config):
        head += products(masked * positions, channels + HEAD_KERNEL * width, width)
    code = 0.0
    if config.bases.code == "channel":
        code = products(batch * model.seq_length, STEM_KERNEL, model.stem_channels)
    return {STAGE: StageFlops(head + code, no_input_gradient=code)}


def bases_bytes(config: Config, windows: Mapping[str, int], product: int) -> dict[str, float]:
    """Bytes that are kept for the backward pass where all windows are masked, as they may be.

    Of each level a copy of what the trunk pooled, and the input of the block. product: bytes of an
    element.
    """
    if not _hides(config):
        return {}
    width = config.bases.width_of_head(config.space.stem_channels)
    elements = sum(positions * (channels + width) for positions, channels in _levels(config))
    return {STAGE: float(sum(windows.values()) * elements * product)}


def with_bases(counts: ParameterCounts, config: Config) -> ParameterCounts:
    """Parameters of the model, code and head among them."""
    if not _hides(config):
        return counts
    with torch.device("meta"):
        model = HybridSpace(config.space, config.bases)
    own = sum(p.numel() for name, p in model.named_parameters() if name.startswith(OWN))
    return replace(counts, total=counts.total + own, active=counts.active + own)
