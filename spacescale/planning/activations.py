"""Bytes that autograd keeps for the backward pass of one micro-batch, stage by stage.

Each function names the tensors that its stage keeps. A tensor that several operations share is
counted where it is kept first. What is smaller than one value per position is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacescale.model.layers import NUM_BASES
from spacescale.planning.flops import experts_per_track, tower_stages
from spacescale.planning.parameters import autocast_parameters
from spacescale.space_config import ModelConfig, Stage

FLOAT, INDEX = 4, 8  # bytes


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-step on one GPU."""

    kept: dict[str, float]  # stage → bytes kept at the end of the forward pass
    recomputed: float  # of the largest recomputed part, while it is there again

    @property
    def total(self) -> float:
        """Bytes at the most."""
        return sum(self.kept.values()) + self.recomputed


@dataclass(frozen=True)
class _Setting:
    """Sizes and bytes per element that the stages share."""

    config: ModelConfig
    windows: dict[str, int]  # by species
    on_gpu: bool
    product: int  # bytes: operands of products and convolutions, and what lies between them
    norm: int  # bytes: input of LayerNorm, which GPUs widen
    mask: int  # bytes: a dropout mask; a factor per element on CPUs

    @property
    def batch(self) -> int:
        return sum(self.windows.values())

    @property
    def tokens(self) -> int:
        return self.batch * self.config.num_tokens

    @property
    def bins(self) -> int:
        """Predicted, of all windows."""
        return self.batch * self.config.target_length

    @property
    def profiles(self) -> int:
        """Tracks of all windows."""
        return sum(n * len(self.config.species[name]) for name, n in self.windows.items())

    def dropout(self, rate: float) -> int:
        """Bytes per element that dropout keeps."""
        return self.mask if rate else 0


def product_bytes(precision: str) -> int:
    """Bytes of an operand of products and convolutions."""
    return 2 if precision == "bf16" else FLOAT


def activation_bytes(
    config: ModelConfig,
    windows: dict[str, int],
    precision: str,
    on_gpu: bool,
    ep_size: int,
) -> Activations:
    """Plan a micro-batch of that many windows per species.

    Precision is "fp32", or "bf16" for autocast, which also keeps 16-bit copies of weights.
    """
    product = product_bytes(precision)
    setting = _Setting(
        config,
        windows,
        on_gpu,
        product,
        norm=FLOAT if on_gpu else product,
        mask=1 if on_gpu else product,
    )
    stages = [_stem(setting), _conv_tower(setting), _transformer(setting), _pointwise(setting)]
    if config.decoder != "none":
        stages.append(_decoder(setting))
    kept = {}
    for stage in stages:
        kept |= stage.kept(config.checkpoint_stages)
    kept["heads and loss"] = _heads_and_loss(setting)
    if precision == "bf16":
        kept["weights in 16 bits"] = 2 * autocast_parameters(config, ep_size)
    again = [s.largest_part for s in stages if s.name in config.checkpoint_stages]
    return Activations(kept, max(again, default=0.0))


@dataclass(frozen=True)
class _StageBytes:
    """A stage that can be recomputed, as a run of parts each computed at once."""

    name: Stage
    parts: list[dict[str, float]]  # of each part: what → bytes kept where nothing is recomputed
    inputs: float  # bytes of the inputs of all parts

    def kept(self, recomputed: tuple[Stage, ...]) -> dict[str, float]:
        if self.name in recomputed:
            return {self.name: self.inputs}
        return {what: sum(part[what] for part in self.parts) for what in self.parts[0]}

    @property
    def largest_part(self) -> float:
        return max(sum(part.values()) for part in self.parts)


def _stem(at: _Setting) -> _StageBytes:
    """One-hot bases; their convolution, which is the residual block's input; the pool's."""
    positions, width = at.batch * at.config.seq_length, at.config.stem_channels
    bases = positions * NUM_BASES * at.product
    kept = bases + positions * width * at.product + _pool(at, positions, width)
    return _StageBytes("stem", [{"stem": kept}], inputs=positions * NUM_BASES * FLOAT)


def _conv_tower(at: _Setting) -> _StageBytes:
    """Of each stage the inputs of its two convolution blocks, and the pool's."""
    parts, inputs = [], 0.0
    for length, c_in, c_out in tower_stages(at.config):
        positions = at.batch * length
        blocks = positions * (c_in + c_out) * at.product
        parts.append({"conv_tower": blocks + _pool(at, positions, c_out)})
        inputs += positions * c_in * at.product
    bins = at.batch * at.config.seq_length // at.config.bin_size * at.config.dim * at.product
    parts += [{"conv_tower": bins}] * at.config.dilated_convs
    return _StageBytes("conv_tower", parts, inputs + at.config.dilated_convs * bins)


def _pool(at: _Setting, positions: int, width: int) -> float:
    """Difference within each pair of positions, and the share of its first."""
    return 2 * positions / 2 * width * at.product


def _transformer(at: _Setting) -> _StageBytes:
    feed_forward = _experts(at) if at.config.species_num_experts else _dense_feed_forward(at)
    block = {"attention": _attention(at), "feed_forward": feed_forward}
    inputs = at.config.depth * at.tokens * at.config.dim * at.product
    return _StageBytes("transformer", [block] * at.config.depth, inputs)


def _attention(at: _Setting) -> float:
    """LayerNorm, projections, attention weights and the dropout of the result."""
    config, n, keys = at.config, at.config.num_tokens, at.config.heads * at.config.attn_dim_key
    basis = (2 * n - 1) * config.dim // config.heads * at.product
    distance_keys = (2 * n - 1) * keys * at.product
    normed = at.tokens * config.dim * (at.norm + at.product)
    queries = at.tokens * keys * at.product  # with the position bias
    joined = at.tokens * config.dim * at.product  # heads, before to_out
    dropped = at.tokens * config.dim * at.dropout(config.dropout)
    return basis + distance_keys + normed + queries + _attention_weights(at) + joined + dropped


def _attention_weights(at: _Setting) -> float:
    """Queries, keys, values; the logits by distance on GPUs, the weights of all pairs on CPUs."""
    config, n = at.config, at.config.num_tokens
    operands = at.tokens * (2 * config.heads * config.attn_dim_key + config.dim)
    pairs = at.batch * config.heads * n * n
    if at.on_gpu:
        result = at.tokens * config.dim
        return (operands + 2 * pairs + result) * at.product
    return (operands + (3 if config.attn_dropout else 1) * pairs) * FLOAT


def _dense_feed_forward(at: _Setting) -> float:
    dim, dropout = at.config.dim, at.dropout(at.config.dropout)
    normed = dim * (at.norm + at.product)
    return at.tokens * (normed + _hidden(at, 2 * dim) + dim * dropout)


def _experts(at: _Setting) -> float:
    config, dropout = at.config, at.dropout(at.config.dropout)
    dim, experts, chosen = config.dim, config.species_num_experts, config.species_top_k
    normed = dim * at.norm
    gated = dim * FLOAT if at.product < FLOAT else 0  # else the LayerNorm's own input
    gates = 4 * experts * FLOAT + chosen * (2 * FLOAT + INDEX)
    row = _network_row(at, dim) + dim * dropout + 2 * dim * FLOAT + 3 * INDEX + FLOAT
    return at.tokens * (normed + gated + gates + chosen * row)


def _network_row(at: _Setting, width: int) -> float:
    """One row through an expert: its input; hidden values after ReLU, and after dropout."""
    return width * at.product + _hidden(at, 2 * width)


def _hidden(at: _Setting, width: int) -> float:
    """Hidden values after ReLU, and again after dropout."""
    dropout = at.dropout(at.config.dropout)
    return width * (at.product + (at.product + dropout if dropout else 0))


def _pointwise(at: _Setting) -> _StageBytes:
    """The block's input. (Dropout and GELU follow it outside the recomputed part.)"""
    inputs = at.bins * at.config.dim * at.product
    return _StageBytes("pointwise", [{"pointwise": inputs}], inputs)


def _heads_and_loss(at: _Setting) -> float:
    """Dropout and GELU before the heads; softplus, its logarithm and targets after them."""
    config = at.config
    wide = at.bins * 2 * config.dim
    features = wide * (3 * at.product + at.dropout(config.dropout))
    predictions = 4 if config.decoder == "none" else 7
    return features + predictions * at.profiles * config.target_length * FLOAT


def _decoder(at: _Setting) -> _StageBytes:
    of_profile = _dense_decoder(at) if at.config.decoder == "mlp" else _profile_experts(at)
    sizes = [n * len(at.config.species[name]) for name, n in at.windows.items()]
    parts = [{"decoder": size * of_profile} for size in sizes]
    inputs = at.profiles * at.config.target_length * FLOAT
    return _StageBytes("decoder", parts, inputs)


def _dense_decoder(at: _Setting) -> float:
    """Bytes per profile."""
    bins = at.config.target_length
    return bins * at.product + _hidden(at, 2 * bins * at.config.tracks_num_experts)


def _profile_experts(at: _Setting) -> float:
    """Bytes per profile: the gates' input and logits, then the rows of the experts it chose."""
    config, bins = at.config, at.config.target_length
    experts, gates = config.tracks_num_experts, config.groups_per_type
    logits = (len(config.profile_types) + 2) * gates * experts + experts
    choice = gates * config.tracks_top_k * (2 * FLOAT + INDEX)
    row = _network_row(at, bins) + 2 * bins * FLOAT + 2 * INDEX + FLOAT
    return bins * FLOAT + logits * FLOAT + choice + experts_per_track(config) * row
