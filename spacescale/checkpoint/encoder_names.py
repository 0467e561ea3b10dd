"""The encoder's tensors under the names that loaders of DNABERT-2 and MosaicBERT know.

Only names differ. Theirs hold the tied embeddings twice, the second time as the decoder's weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spacescale.errors import UserError

# Our module and theirs; what they hold is called the same, weight and bias.
_MODULES = {
    "words": "bert.embeddings.word_embeddings",
    "segments": "bert.embeddings.token_type_embeddings",
    "norm": "bert.embeddings.LayerNorm",
    "head.dense": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head": "cls.predictions.decoder",
}
_OF_A_LAYER = {
    "attention.qkv": "attention.self.Wqkv",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.gated": "mlp.gated_layers",
    "feed_forward.output": "mlp.wo",
    "feed_forward_norm": "mlp.layernorm",
}
_WORDS, _TIED = "words.weight", "cls.predictions.decoder.weight"
_UNUSED = "bert.pooler."  # of classifiers: masked tokens are predicted without it


def to_dnabert2(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Tensors of an `Encoder` of `depth` layers under their names, the tied ones under both."""
    theirs = _renamed(weights, _their_modules(depth), "weights of an encoder")
    return theirs | {_TIED: weights[_WORDS]}


def from_dnabert2(weights: Mapping[str, Tensor], depth: int, source: str) -> dict[str, Tensor]:
    """Tensors under the names of an `Encoder` of `depth` layers from those under theirs.

    Raises UserError naming `source` and a tensor that has no place in it, a module of which it
    holds none, or a decoder whose weight is not that of the embeddings.
    """
    ours_of = {theirs: ours for ours, theirs in _their_modules(depth).items()}
    kept = {k: t for k, t in weights.items() if k != _TIED and not k.startswith(_UNUSED)}
    ours = _renamed(kept, ours_of, source)
    there = {key.rpartition(".")[0] for key in kept}
    if missing := [module for module in ours_of if module not in there]:
        raise UserError(f"{source}: {missing[0]} is missing")
    tied = weights.get(_TIED)
    if tied is not None and not torch.equal(tied, ours[_WORDS]):
        raise UserError(f"{source}: {_TIED} is not that of the embeddings; expected tied weights")
    return ours


def _their_modules(depth: int) -> dict[str, str]:
    return _MODULES | {
        f"layers.{layer}.{ours}": f"bert.encoder.layer.{layer}.{theirs}"
        for layer in range(depth)
        for ours, theirs in _OF_A_LAYER.items()
    }


def _renamed(
    weights: Mapping[str, Tensor], modules: Mapping[str, str], source: str
) -> dict[str, Tensor]:
    found = {}
    for key, tensor in weights.items():
        module, _, name = key.rpartition(".")
        if module not in modules:
            raise UserError(f"{source}: unexpected {key}")
        found[f"{modules[module]}.{name}"] = tensor
    return found
