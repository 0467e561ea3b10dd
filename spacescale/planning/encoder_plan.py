"""What an encoder of tokens costs: its products, and the bytes kept for the backward pass.

Shapes: B sequences of N tokens, T = B·N, of which M are hidden; D, F, H, V as in model/encoder.py.
All sequences are planned at `mlm.max_tokens`, the longest there are: half of those of a run are
shorter, and a batch is filled up to its longest.
"""

from __future__ import annotations

from statistics import mean

from spacescale.config import Config
from spacescale.encoder_config import EncoderConfig
from spacescale.mlm_config import MlmConfig
from spacescale.planning.activations import FLOAT, INDEX, Activations, product_bytes
from spacescale.planning.flops import StageFlops

SEQUENCES = "sequences"  # what a micro-batch holds, in place of windows of species


def hidden_share(mlm: MlmConfig) -> float:
    """Share of tokens that are hidden, the mean over vocabularies."""
    of_each = {
        "bpe": mlm.bpe_rate,
        "kmer": 1 - (1 - mlm.kmer_centre_rate) ** mlm.kmer_span,
    }
    return mean(of_each[name] for name in mlm.vocabularies)


def encoder_flops(config: Config, sequences: int) -> dict[str, StageFlops]:
    """Stage → work of a micro-batch, forward once."""
    model, n = config.encoder, config.mlm.max_tokens
    hidden = hidden_share(config.mlm) * sequences * n
    head = StageFlops(2 * hidden * model.dim * (model.dim + model.vocab_size))
    return layer_flops(model, sequences, n) | {"head": head}


def layer_flops(model: EncoderConfig, sequences: int, length: int) -> dict[str, StageFlops]:
    """Of all layers, for sequences of `length` tokens: stage → work, forward once."""
    tokens, dim = sequences * length, model.dim
    return {
        "attention_projections": StageFlops(model.depth * 2 * tokens * dim * 4 * dim),
        "attention": StageFlops(model.depth * 2 * tokens * length * 2 * dim),
        "feed_forward": StageFlops(model.depth * 2 * tokens * dim * 3 * model.ffn_dim),
    }


def encoder_activations(
    config: Config, sequences: int, precision: str, on_gpu: bool, weights: int
) -> Activations:
    """Plan a micro-batch; weights: parameters that autocast keeps in 16 bits, too."""
    model, n = config.encoder, config.mlm.max_tokens
    product, norm = _sizes(precision, on_gpu)
    hidden = hidden_share(config.mlm) * sequences * n
    of_hidden = model.dim * (3 * product + norm) + model.vocab_size * FLOAT
    kept = layer_activations(model, sequences, n, precision, on_gpu)
    kept["head and loss"] = hidden * of_hidden
    if precision == "bf16":
        kept["weights in 16 bits"] = float(2 * weights)
    return Activations(kept, 0.0)


def layer_activations(
    model: EncoderConfig, sequences: int, length: int, precision: str, on_gpu: bool
) -> dict[str, float]:
    """Bytes kept of sequences of `length` tokens, of embeddings and all layers."""
    tokens, dim, ffn = sequences * length, model.dim, model.ffn_dim
    product, norm = _sizes(precision, on_gpu)
    mask = (1 if on_gpu else product) if model.dropout else 0
    # Input of the projections, queries, keys, values and result; dropout; LayerNorm's input.
    attention = dim * (5 * product + mask + norm)
    # Input; both halves; GELU's result; the product, dropped out; LayerNorm's input.
    feed_forward = dim * (product + norm) + ffn * (4 * product + mask)
    return {
        "embeddings": float(tokens * (INDEX + dim * (norm + mask))),
        "ALiBi": float(sequences * model.heads * length**2 * product),
        "attention": float(model.depth * tokens * attention),
        "feed_forward": float(model.depth * tokens * feed_forward),
    }


def _sizes(precision: str, on_gpu: bool) -> tuple[int, int]:
    """Bytes of an operand of products, and of LayerNorm's input, which GPUs widen."""
    product = product_bytes(precision)
    return product, FLOAT if on_gpu else product
