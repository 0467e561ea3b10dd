"""Floating-point operations of matrix products and convolutions: two per multiply and add.

Element-wise work is left out, as it is by PyTorch's own counter. Work is counted as the published
model defines it, the measure by which implementations compare; or as it is executed here, which
is less where an equal result costs less and more where stages are recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacescale.model.layers import NUM_BASES, tower_channels
from spacescale.space_config import ModelConfig

STEM_KERNEL, TOWER_KERNEL = 15, 5

# Parts of a stage that `model.checkpoint_stages` (stages to recompute) knows as a whole.
RECOMPUTED_WITH = {
    "attention_projections": "transformer",
    "attention": "transformer",
    "attention_relative": "transformer",
    "feed_forward": "transformer",
}


@dataclass(frozen=True)
class StageFlops:
    """Work of one stage for one micro-batch."""

    forward: float
    no_input_gradient: float = 0  # part of `forward` whose input needs no gradient


def micro_batch_flops(
    config: ModelConfig, windows: dict[str, int], executed: bool = False
) -> dict[str, StageFlops]:
    """Stage → work for a micro-batch of that many windows per species; forward once."""
    batch = sum(windows.values())
    stages = {
        "stem": _stem(config, batch, executed),
        "conv_tower": _conv_tower(config, batch, executed),
        "attention_projections": _attention_projections(config, batch),
        "attention": _attention(config, batch),
        "attention_relative": _attention_relative(config, batch),
        "feed_forward": _feed_forward(config, batch),
        "pointwise": _pointwise(config, batch),
        "heads": _heads(config, windows),
    }
    if config.decoder != "none":
        stages["decoder"] = _decoder(config, windows)
    return stages


def forward_flops(stages: dict[str, StageFlops]) -> float:
    """Work of the forward pass."""
    return sum(stage.forward for stage in stages.values())


def training_flops(stages: dict[str, StageFlops]) -> float:
    """Work of forward and backward pass, nothing computed twice.

    The backward pass computes two gradients per product: of its weights and of its input.
    """
    return sum(3 * stage.forward - stage.no_input_gradient for stage in stages.values())


def recomputed_flops(stages: dict[str, StageFlops], config: ModelConfig) -> float:
    """Forward work that the backward pass does again for recomputed stages."""
    return sum(
        work.forward
        for name, work in stages.items()
        if RECOMPUTED_WITH.get(name, name) in config.checkpoint_stages
    )


def experts_per_track(config: ModelConfig) -> float:
    """Decoder experts that a track is expected to meet: its groups choose independently."""
    missed = (1 - config.tracks_top_k / config.tracks_num_experts) ** config.groups_per_type
    return config.tracks_num_experts * (1 - missed)


def tower_stages(config: ModelConfig) -> list[tuple[int, int, int]]:
    """(length, channels in, channels out) of each stage of the conv tower."""
    width = config.stem_channels
    channels = tower_channels(
        width, config.dim, config.num_downsamples - 1, config.dim_divisible_by
    )
    return [
        (config.seq_length >> (stage + 1), c_in, c_out)
        for stage, (c_in, c_out) in enumerate(zip([width, *channels], channels, strict=False))
    ]


def products(rows: float, width_in: float, width_out: float) -> float:
    """A (rows, width_in) × (width_in, width_out) matrix product."""
    return 2 * rows * width_in * width_out


def _stem(config: ModelConfig, batch: int, executed: bool) -> StageFlops:
    rows, width = batch * config.seq_length, config.stem_channels
    first = products(rows, NUM_BASES * STEM_KERNEL, width)
    residual = products(rows, width, width)
    return StageFlops(first + residual + _pool(rows, width, executed), no_input_gradient=first)


def _conv_tower(config: ModelConfig, batch: int, executed: bool) -> StageFlops:
    work = 0.0
    for length, c_in, c_out in tower_stages(config):
        rows = batch * length
        work += products(rows, c_in * TOWER_KERNEL, c_out)
        work += products(rows, c_out, c_out) + _pool(rows, c_out, executed)
    bins = batch * config.seq_length // config.bin_size
    return StageFlops(work + config.dilated_convs * products(bins, 3 * config.dim, config.dim))


def _pool(rows: float, width: int, executed: bool) -> float:
    """Logits of every position; executed, of the difference within every pair."""
    return products(rows / 2 if executed else rows, width, width)


def _attention_projections(config: ModelConfig, batch: int) -> StageFlops:
    keys, dim = config.heads * config.attn_dim_key, config.dim
    return StageFlops(config.depth * products(batch * config.num_tokens, dim, 2 * keys + 2 * dim))


def _attention(config: ModelConfig, batch: int) -> StageFlops:
    """Content logits, and values weighted by attention."""
    n, widths = config.num_tokens, config.heads * config.attn_dim_key + config.dim
    return StageFlops(config.depth * products(batch * n, n, widths))


def _attention_relative(config: ModelConfig, batch: int) -> StageFlops:
    """Logits of every distance, and the distances' keys, computed once per micro-batch."""
    n, keys = config.num_tokens, config.heads * config.attn_dim_key
    distances = 2 * n - 1
    projection = config.depth * products(distances, config.dim // config.heads, keys)
    logits = config.depth * products(batch * n, distances, keys)
    return StageFlops(logits + projection, no_input_gradient=projection)


def _feed_forward(config: ModelConfig, batch: int) -> StageFlops:
    """The experts and their gate, or the one dense network."""
    rows, dim, experts = batch * config.num_tokens, config.dim, config.species_num_experts
    chosen = config.species_top_k if experts else 1
    network = chosen * 2 * products(rows, dim, 2 * dim)
    return StageFlops(config.depth * (network + products(rows, dim, experts)))


def _pointwise(config: ModelConfig, batch: int) -> StageFlops:
    return StageFlops(products(batch * config.target_length, config.dim, 2 * config.dim))


def _heads(config: ModelConfig, windows: dict[str, int]) -> StageFlops:
    return StageFlops(
        sum(
            products(count * config.target_length, 2 * config.dim, len(config.species[name]))
            for name, count in windows.items()
        )
    )


def _decoder(config: ModelConfig, windows: dict[str, int]) -> StageFlops:
    """Along the bins of every track: the gates of all types, then the experts it chose."""
    tracks = sum(count * len(config.species[name]) for name, count in windows.items())
    bins, experts = config.target_length, config.tracks_num_experts
    if config.decoder == "mlp":
        return StageFlops(2 * products(tracks, bins, 2 * bins * experts))
    groups = len(config.profile_types) * config.groups_per_type
    gates = products(tracks, bins, groups * experts)
    group_weights = products(sum(windows.values()), 3 * config.dim, groups)
    networks = 2 * products(tracks * experts_per_track(config), bins, 2 * bins)
    return StageFlops(gates + group_weights + networks)
