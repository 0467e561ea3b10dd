"""A few lines on what lies at a path: run, checkpoint, export or species data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import best_of, find_checkpoint, require_sound
from spacescale.checkpoint.probe import FILE as PROBE
from spacescale.dataset.loader import open_genomes
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.data_info import describe_data, describe_genome, describe_together
from spacescale.metrics.track_scale import PREDICTS
from spacescale.model import exports
from spacescale.model.exports import holds_encoder, read_encoder_export, read_export
from spacescale.presets import RELEASED


def describe(path: Path, verify: bool = False) -> str:
    """Describe what lies at `path`; UserError if it is none of ours.

    verify: read all of a checkpoint and say that it is sound; UserError names what is not.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder")
    if path.is_file():
        raise UserError(
            f"{path}: a file; info takes folders: a run, checkpoint, export or dataset, or a "
            "folder of datasets"
        )
    is_export = exports.is_export(path)
    checkpoint = None if is_export else find_checkpoint(path)
    if checkpoint is not None:
        return _describe_checkpoint(checkpoint, verify)
    if verify:
        raise UserError(
            f"{path}: no checkpoint to verify (datasets: python data_prep/verify.py {path})"
        )
    if is_export:
        return _describe_export(path)
    try:
        datasets = list(open_genomes([path]).values())
    except UserError as error:
        raise UserError(f"{path}: no run, checkpoint or export; as data: {error}") from None
    if len(datasets) > 1:
        return describe_together(datasets)
    data = datasets[0]
    return describe_data(data) if isinstance(data, SpeciesData) else describe_genome(data)


def _describe_checkpoint(checkpoint: Path, verify: bool) -> str:
    if verify:
        require_sound(checkpoint)
    state = layout.read_state(checkpoint)
    lines = [
        f"checkpoint   {checkpoint}",
        f"step         {state['step']}",
        f"best of run  {_best_of(checkpoint.parent)}",
        "layout       {world_size} processes, expert parallel {ep_size}, ZeRO-{zero_stage}, "
        "{micro_batch_size} windows × {gradient_accumulation_steps} per process and step".format(
            **state["layout"]
        ),
        f"probe        {_probe(checkpoint)}",
    ]
    settings = layout.read_config(checkpoint, state)
    config = settings.model_dump(mode="json")
    if settings.objective == "tokens":
        lines += _encoder_lines(config["model"], config["mlm"], state)
    else:
        lines += _model_lines(config["model"], config["loss"], state)
    if verify:
        lines.append("verified     every file is as it was written")
    return "\n".join(lines)


def _best_of(checkpoints: Path) -> str:
    try:
        best = best_of(checkpoints)
    except UserError as error:
        return f"not known: {error}"
    return best.name if best else "not known"


def _probe(checkpoint: Path) -> str:
    if (checkpoint / PROBE).is_file():
        return "held: its conversion is proved against predictions of training"
    return "none: its conversion cannot be proved against predictions of training"


def _describe_export(path: Path) -> str:
    of_tokens = holds_encoder(path)
    payload = read_encoder_export(path) if of_tokens else read_export(path)
    trained = payload["trained"]
    lines = [f"export       {path}", f"step         {trained['step']}"]
    if of_tokens:
        return "\n".join(lines + _encoder_lines(payload["model"], payload["mlm"], trained))
    lines.append(f"predicts     {PREDICTS[payload['track_scale']]}")
    return "\n".join(lines + _model_lines(payload["model"], trained.get("loss", {}), trained))


def _encoder_lines(
    model: Mapping[str, Any], mlm: Mapping[str, Any], state: Mapping[str, Any]
) -> list[str]:
    of_each = {
        "bpe": f"BPE of up to {mlm['bpe_bp']:,} bp",
        "kmer": f"k-mers of up to {mlm['kmer_bp']:,} bp",
    }
    lines = [
        f"reads        {', '.join(of_each[name] for name in mlm['vocabularies'])}",
        f"vocabulary   {model['vocab_size']:,} tokens, sha256 {mlm['vocabulary_sha256'][:12]}",
        f"size         dim {model['dim']}, depth {model['depth']}, {model['heads']} heads, "
        f"feed-forward {model['ffn_dim']}",
        f"trained on   {', '.join(state['data_manifests'])}",
    ]
    for name in state["data_manifests"]:
        loss, hit = (state["metrics"].get(f"valid/{kind}/{name}") for kind in ("loss", "accuracy"))
        if loss is not None and hit is not None:
            lines.append(f"validation   {name}: loss {loss:.3f}, accuracy {hit:.3f}")
    return [*lines, *_history(state)]


def _model_lines(
    model: Mapping[str, Any], loss: Mapping[str, Any], state: Mapping[str, Any]
) -> list[str]:
    bins = f"{model['target_length']} bins of {2 ** model['num_downsamples']} bp"
    lines = [
        f"input        {model['seq_length']:,} bp, predicts {bins}",
        f"size         dim {model['dim']}, depth {model['depth']}, {_experts(model)}",
        f"as released  {_as_released({'model': model, 'loss': loss})}",
    ]
    for name, assays in model["species"].items():
        lines.append(f"{name:<12} {_count(assays)}")
    scores = state["metrics"]
    for name in model["species"]:
        score = scores.get(f"valid/pearson_log1p/{name}")
        if score is not None:
            lines.append(f"validation   {name}: Pearson (log1p) {score:.3f}")
    return [*lines, *_history(state)]


def _history(state: Mapping[str, Any]) -> list[str]:
    """The weights that training began with, those that these began with …, and versions."""
    began = [
        f"began with   {one['path']}: {layout.describe_beginning(one)}"
        for one in layout.beginnings(state)
    ]
    return [*began, _made_with(state)]


def _made_with(state: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in state["versions"].items())
    return f"made with    {versions}"


def _experts(model: Mapping[str, Any]) -> str:
    encoder = f"{model['species_num_experts']} species experts (top {model['species_top_k']})"
    if own := model.get("own_experts"):
        encoder += "".join(f", {count} of them of {name} alone" for name, count in own.items())
    decoder = {
        "moe": f"{model['tracks_num_experts']} track experts (top {model['tracks_top_k']})",
        "mlp": "dense decoder",
        "none": "no decoder",
    }[model["decoder"]]
    return f"{encoder if model['species_num_experts'] else 'dense encoder'}, {decoder}"


def _as_released(config: Mapping[str, Mapping[str, Any]]) -> str:
    """The switches that stand as in the released code; the others follow our defaults."""
    switches = [
        f"{section}.{field}"
        for section, fields in RELEASED.items()
        for field, value in fields.items()
        if config[section].get(field) == value
    ]
    return ", ".join(switches) or "no switch"


def _count(assays: Sequence[str]) -> str:
    if not assays:
        return "no tracks"
    counts = ", ".join(f"{n} {assay}" for assay, n in sorted(Counter(assays).items()))
    return f"{len(assays)} tracks: {counts}"
