"""Names of our tensors and settings in the layouts of others. Data only; `tensor_map` reads it.

A row states our name, their name, and how their tensors make up ours. Braces stand for several
names. On both sides: {affine} and {batchnorm} (below), {level} of the conv tower, {block} of the
transformer, {species}. On their side alone, where several tensors make up one of ours:
{each_species}, {each_type}, {each_gate}, {each_projection}.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Join = Literal["same", "pool", "experts", "biases", "stack", "rows", "gates", "gate_rows"]
# same       the tensor itself
# pool       theirs is a Conv2d's weight with a last axis of 1, ours a Conv1d's
# experts    theirs is (expert, in, out), ours (expert, out, in)
# biases     both biases of all experts, (expert, 2d) and (expert, d); ours (expert, 1, 3d)
# stack      one tensor per species; ours has the species in front
# rows       one (1, 1, d) per species or profile type; ours has them as rows
# gates      one (expert, …) per gate of the decoder; ours has them below each other
# gate_rows  rows are gates of the decoder, in their order of profile types


class Row(NamedTuple):
    """One line of a key map."""

    ours: str
    theirs: str
    join: Join = "same"


AFFINE = ("weight", "bias")
BATCHNORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PROJECTIONS = ("input", "output")
# Profile types as the released code names and orders them, and our assay of each.
PROFILE_TYPES = {
    "DNASE/ATAC": "dnase_atac",
    "TF ChIP-seq": "tf_chip",
    "Histone ChIP-seq": "histone_chip",
    "CAGE": "cage",
}

_CONVOLUTIONS = (
    Row("stem.0.{affine}", "stem.0.{affine}"),
    Row("stem.1.block.0.{batchnorm}", "stem.1.fn.0.{batchnorm}"),
    Row("stem.1.block.2.{affine}", "stem.1.fn.2.{affine}"),
    Row("stem.2.to_logits.weight", "stem.2.to_attn_logits.weight", "pool"),
    Row("conv_tower.{level}.0.0.{batchnorm}", "conv_tower.{level}.0.0.{batchnorm}"),
    Row("conv_tower.{level}.0.2.{affine}", "conv_tower.{level}.0.2.{affine}"),
    Row("conv_tower.{level}.1.block.0.{batchnorm}", "conv_tower.{level}.1.fn.0.{batchnorm}"),
    Row("conv_tower.{level}.1.block.2.{affine}", "conv_tower.{level}.1.fn.2.{affine}"),
    Row(
        "conv_tower.{level}.2.to_logits.weight",
        "conv_tower.{level}.2.to_attn_logits.weight",
        "pool",
    ),
    Row("pointwise.0.{batchnorm}", "final_pointwise.1.0.{batchnorm}"),
    Row("pointwise.2.{affine}", "final_pointwise.1.2.{affine}"),
)


def _attention(theirs: str) -> tuple[Row, ...]:
    names = ("rel_content_bias", "rel_pos_bias", "to_q.weight", "to_k.weight", "to_v.weight")
    names += ("to_out.{affine}", "to_rel_k.weight")
    return (
        Row("transformer.{block}.norm.{affine}", f"{theirs}.0.{{affine}}"),
        *(Row(f"transformer.{{block}}.attention.{name}", f"{theirs}.1.{name}") for name in names),
    )


_BLOCK = "model.transformer.transformer.{block}."
_FEED_FORWARD = _BLOCK + "feed_forward."
RELEASED = (
    *(Row(ours, f"model.{theirs}", join) for ours, theirs, join in _CONVOLUTIONS),
    *_attention(_BLOCK + "attention.fn"),
    Row("species_token.weight", "model.transformer.species_embedding.{each_species}", "rows"),
    Row("transformer.{block}.moe.norm.{affine}", _FEED_FORWARD + "layer_norm.{affine}"),
    Row("heads.{species}.{affine}", "model.heads.{species}.0.{affine}"),
)
RELEASED_DENSE = (
    Row("transformer.{block}.moe.input.{affine}", _FEED_FORWARD + "input.{affine}"),
    Row("transformer.{block}.moe.output.{affine}", _FEED_FORWARD + "output.{affine}"),
)
_EXPERTS = "transformer.{block}.moe.mixture.experts."
RELEASED_ROUTED = (
    Row(
        "transformer.{block}.moe.router.{affine}",
        _FEED_FORWARD + "gates.{each_species}.0.{affine}",
        "stack",
    ),
    Row(_EXPERTS + "w1", _FEED_FORWARD + "input.weight", "experts"),
    Row(_EXPERTS + "w2", _FEED_FORWARD + "output.weight", "experts"),
    Row(_EXPERTS + "w3", _FEED_FORWARD + "{each_projection}.bias", "biases"),
)
_TRACKS = "model.tracks."
RELEASED_DECODER = (
    Row("decoder.from_sequence.{affine}", _TRACKS + "gate_selector.{affine}", "gate_rows"),
    Row("decoder.from_species.{affine}", _TRACKS + "embedding_gate_selector.{affine}", "gate_rows"),
    Row("decoder.gates.{affine}", _TRACKS + "gates.{each_gate}.0.{affine}", "gates"),
    Row("decoder.type_embedding", _TRACKS + "tracks_embedding.{each_type}", "rows"),
    Row("decoder.experts.w1", _TRACKS + "input_proj.weight", "experts"),
    Row("decoder.experts.w2", _TRACKS + "output_proj.weight", "experts"),
    Row("decoder.experts.w3", _TRACKS + "{each_projection}_proj.bias", "biases"),
)
RELEASED_UNUSED = (Row("decoder.layer_norm.{affine}", _TRACKS + "layer_norm.{affine}"),)
# Beginnings of keys in older checkpoints, and what they became.
OLDER_PREFIXES = (
    ("enformer.", "model."),
    ("model.tracks.output.human.", "model.heads.human.0."),
    ("model.tracks.output.mouse.", "model.heads.mouse.0."),
)
# Our setting, its name in the released `config.json`, and the released code's default.
RELEASED_CONFIG = (
    ("seq_length", "seq_length", 131_072),
    ("target_length", "target_length", 896),
    ("num_downsamples", "num_downsamples", 7),
    ("dim", "dim", 768),
    ("dim_divisible_by", "dim_divisible_by", 128),
    ("depth", "depth", 11),
    ("heads", "heads", 8),
    ("attn_dim_key", "attn_dim_key", 64),
    ("species_num_experts", "species_num_experts", 4),
    ("species_top_k", "topk", 3),
    ("tracks_num_experts", "tracks_num_experts", 15),
    ("tracks_top_k", "tracks_topk", 3),
    ("dropout", "dropout_rate", 0.4),
    ("attn_dropout", "attn_dropout", 0.05),
    ("pos_dropout", "pos_dropout", 0.01),
)
RELEASED_HEADS = {"human": 5313, "mouse": 1643}
RELEASED_GATES_PER_TYPE = 2

# lucidrains' enformer-pytorch 0.8.10. Its `_trunk.*` are second names of the same tensors.
ENFORMER = (
    *_CONVOLUTIONS,
    *_attention("transformer.{block}.0.fn"),
    Row("transformer.{block}.moe.norm.{affine}", "transformer.{block}.1.fn.0.{affine}"),
    Row("transformer.{block}.moe.input.{affine}", "transformer.{block}.1.fn.1.{affine}"),
    Row("transformer.{block}.moe.output.{affine}", "transformer.{block}.1.fn.4.{affine}"),
    Row("heads.{species}.{affine}", "_heads.{species}.0.{affine}"),
)
ENFORMER_ALIASES = "_trunk."
# As above, of its `config.json`. 196,608 bp are a constant of its code.
ENFORMER_CONFIG = (
    ("seq_length", "seq_length", 196_608),
    ("target_length", "target_length", 896),
    ("num_downsamples", "num_downsamples", 7),
    ("dim", "dim", 1536),
    ("dim_divisible_by", "dim_divisible_by", 128),
    ("depth", "depth", 11),
    ("heads", "heads", 8),
    ("attn_dim_key", "attn_dim_key", 64),
    ("dropout", "dropout_rate", 0.4),
    ("attn_dropout", "attn_dropout", 0.05),
    ("pos_dropout", "pos_dropout", 0.01),
)
