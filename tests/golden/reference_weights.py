"""The released SPACE's parameters under our names: which key makes which of ours, as data."""

import re
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

# Our assay of each of the reference's profile types, in the reference's order.
ASSAYS = {
    "DNASE/ATAC": "dnase_atac",
    "TF ChIP-seq": "tf_chip",
    "Histone ChIP-seq": "histone_chip",
    "CAGE": "cage",
}
RENAMES = [
    (r"stem\.0\.(.+)", r"stem.0.\1"),
    (r"stem\.1\.fn\.(.+)", r"stem.1.block.\1"),
    (r"stem\.2\.to_attn_logits\.weight", r"stem.2.to_logits.weight"),
    (r"conv_tower\.(\d+)\.0\.(.+)", r"conv_tower.\1.0.\2"),
    (r"conv_tower\.(\d+)\.1\.fn\.(.+)", r"conv_tower.\1.1.block.\2"),
    (r"conv_tower\.(\d+)\.2\.to_attn_logits\.weight", r"conv_tower.\1.2.to_logits.weight"),
    (r"transformer\.species_embedding\..+", r"species_token"),
    (r"BLOCK\.attention\.fn\.0\.(.+)", r"transformer.\1.norm.\2"),
    (r"BLOCK\.attention\.fn\.1\.(.+)", r"transformer.\1.attention.\2"),
    (r"BLOCK\.feed_forward\.layer_norm\.(.+)", r"transformer.\1.moe.norm.\2"),
    (r"BLOCK\.feed_forward\.gates\..+\.0\.(weight|bias)", r"transformer.\1.moe.router.\2"),
    (r"final_pointwise\.1\.(.+)", r"pointwise.\1"),
    (r"heads\.([^.]+)\.0\.(.+)", r"heads.\1.\2"),
    (r"tracks\.gate_selector\.(.+)", r"decoder.from_sequence.\1"),
    (r"tracks\.embedding_gate_selector\.(.+)", r"decoder.from_species.\1"),
    (r"tracks\.gates\.\d+\.0\.(.+)", r"decoder.gates.\1"),
    (r"tracks\.tracks_embedding\..+", r"decoder.type_embedding"),
    (r"tracks\.input_proj\.weight", r"decoder.experts.w1"),
    (r"tracks\.output_proj\.weight", r"decoder.experts.w2"),
    (r"tracks\.(?:input|output)_proj\.bias", r"decoder.experts.w3"),
]
DENSE = [(r"BLOCK\.feed_forward\.(input|output)\.(.+)", r"transformer.\1.moe.\2.\3")]
ROUTED = [
    (r"BLOCK\.feed_forward\.input\.weight", r"transformer.\1.moe.mixture.experts.w1"),
    (r"BLOCK\.feed_forward\.output\.weight", r"transformer.\1.moe.mixture.experts.w2"),
    (r"BLOCK\.feed_forward\.(?:input|output)\.bias", r"transformer.\1.moe.mixture.experts.w3"),
]
UNUSED = {"tracks.layer_norm.weight", "tracks.layer_norm.bias"}  # in no computation


def our_parts(reference: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Group what is known of reference tensors by the tensor of ours that they make up.

    Within a group the keys are in alphabetical order.
    """
    names = RENAMES + (ROUTED if any(".gates.human." in key for key in reference) else DENSE)
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for key in sorted(reference):
        plain = key.removeprefix("model.")
        if plain not in UNUSED:
            parts[_rename(plain, names)][key] = reference[key]
    return parts


def _rename(key: str, names: list[tuple[str, str]]) -> str:
    for pattern, name in names:
        pattern = pattern.replace("BLOCK", r"transformer\.transformer\.(\d+)")
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    raise KeyError(key)


def our_weights(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of our model with species human, mouse."""
    return {name: join(name, list(parts.values())) for name, parts in our_parts(reference).items()}


def join(name: str, parts: list[Tensor]) -> Tensor:
    """One of our tensors from its parts, which come in alphabetical order of the reference's keys:
    species in our head order, profile types in our sorted order, `input` before `output`.
    """
    if name == "species_token":
        return torch.cat(parts).squeeze(1)
    if ".router." in name:
        return torch.stack(parts)
    if name.endswith(("experts.w1", "experts.w2")):
        return parts[0].transpose(1, 2).contiguous()  # the reference stores (E, in, out)
    if name.endswith("experts.w3"):
        return torch.cat(parts, dim=1)[:, None]
    if name == "decoder.type_embedding":
        return torch.cat(parts).squeeze(1)
    if name.startswith("decoder.gates."):
        return sort_types(torch.stack(parts)).flatten(0, 1)
    if name.startswith(("decoder.from_sequence.", "decoder.from_species.")):
        return sort_types(parts[0])
    if name.endswith("to_logits.weight"):
        return parts[0].squeeze(-1)  # theirs is a Conv2d, ours a Conv1d
    return parts[0]


def sort_types(rows: Tensor) -> Tensor:
    """Rows (type × group, …) from the reference's order of types to ours."""
    reference = list(ASSAYS.values())
    places = [reference.index(assay) for assay in sorted(reference)]
    return rows.unflatten(0, (len(ASSAYS), -1))[places].flatten(0, 1)
