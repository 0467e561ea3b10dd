"""What an encoder of tokens costs: its products, and the bytes kept for the backward pass.

Shapes: B sequences of N tokens, T = B·N, of which M are hidden; D, F, H, V as in model/encoder.py.
All sequences are planned at `mlm.max_tokens`, the longest there are: half of those of a run are
shorter, and a batch is filled up to its longest.
"""

from __future__ import annotations

from statistics import mean

from spacescale.config import Config
from spacescale.mlm_config import MlmConfig
from spacescale.planning.activations import FLOAT, INDEX, Activations
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
    tokens, dim = sequences * n, model.dim
    hidden = hidden_share(config.mlm) * tokens
    return {
        "attention_projections": StageFlops(model.depth * 2 * tokens * dim * 4 * dim),
        "attention": StageFlops(model.depth * 2 * tokens * n * 2 * dim),
        "feed_forward": StageFlops(model.depth * 2 * tokens * dim * 3 * model.ffn_dim),
        "head": StageFlops(2 * hidden * dim * (dim + model.vocab_size)),
    }


def encoder_activations(
    config: Config, sequences: int, precision: str, on_gpu: bool, weights: int
) -> Activations:
    """Plan a micro-batch; weights: parameters that autocast keeps in 16 bits, too."""
    model, n = config.encoder, config.mlm.max_tokens
    tokens, dim, ffn = sequences * n, model.dim, model.ffn_dim
    product = 2 if precision == "bf16" else FLOAT
    norm = FLOAT if on_gpu else product
    mask = (1 if on_gpu else product) if model.dropout else 0
    # Input of the projections, queries, keys, values and result; dropout; LayerNorm's input.
    attention = dim * (5 * product + mask + norm)
    # Input; both halves; GELU's result; the product, dropped out; LayerNorm's input.
    feed_forward = dim * (product + norm) + ffn * (4 * product + mask)
    hidden = hidden_share(config.mlm) * tokens
    of_hidden = dim * (3 * product + norm) + model.vocab_size * FLOAT
    kept = {
        "embeddings": tokens * (INDEX + dim * (norm + mask)),
        "ALiBi": float(sequences * model.heads * n * n * product),
        "attention": float(model.depth * tokens * attention),
        "feed_forward": float(model.depth * tokens * feed_forward),
        "head and loss": hidden * of_hidden,
    }
    if precision == "bf16":
        kept["weights in 16 bits"] = float(2 * weights)
    return Activations(kept, 0.0)
