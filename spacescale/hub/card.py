"""The model card, `README.md` of the folder, written from what the run recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from spacescale import __version__
from spacescale.checkpoint.layout import beginnings, describe_beginning
from spacescale.genome.aliases import shorten

SCALES = {
    "mean": "multiples of each track's mean over its training windows",
    "log1p": "multiples of each track's mean over its training windows (trained on log1p of them)",
    "none": "stored targets of training, divided by the track's mean where it is known",
}
# What a run recorded: in words, and which of its values is the best.
RECORDED: dict[str, tuple[str, Callable[..., Any]]] = {
    "train/loss": ("training loss", min),
    "valid/loss": ("validation loss", min),
    "valid/pearson_log1p": ("validation Pearson log1p", max),
}
MOST_CONTIGS = 30  # named
# Figures; others are of what it predicts.
OF_TRAINING = ("loss_curves", "expert_use", "mutual_information")
LIMITS = (
    "Predictions are of bins, not of bases: a change of one base shows in its bin and around it. "
    "The model knows the species and assays that are listed and no others, and sequence alone: "
    "neither cell state nor genotype. Scores are of held-out stretches of the genomes it was "
    "trained on."
)


def card(
    config: dict[str, Any],
    parameters: int,
    evaluated: dict[str, Any] | None,
    figures: list[str],
    checksums: dict[str, str],
) -> str:
    """The card's text.

    config: the folder's `config.json`. evaluated: an evaluation's metrics.json, or None. figures:
    of it, by their paths in the folder. checksums: path in the folder → sha256.
    """
    of_training = [path for path in figures if PurePosixPath(path).stem in OF_TRAINING]
    of_tracks = [path for path in figures if path not in of_training]
    model, trained = config["model"], config["trained"]
    species = list(model["species"])
    bin_bp = 2 ** model["num_downsamples"]
    first = next((name for name in species if model["species"][name]), species[0])
    parts = [
        _front_matter(config, evaluated),
        f"# SPACE, {parameters / 1e6:,.1f} M parameters: {', '.join(species)}\n",
        "A sequence-to-function model with mixtures of experts (SPACE, arXiv 2506.01833), trained "
        f"and exported by spacescale {__version__}.\n",
        "## Load it\n",
        "```python",
        "from transformers import AutoModel  # 5.x, and torch: nothing else",
        "",
        'model = AutoModel.from_pretrained("FOLDER or org/name", trust_remote_code=True)',
        f'output = model(windows, species="{first}")  # strings of {model["seq_length"]:,} bp',
        f"output.tracks  # (B, {model['target_length']}, {len(model['species'][first])})",
        f'features = model.embed("ACGT…", species="{first}")  # any length',
        "```",
        "",
        "or, with spacescale, which adds strands, units, regions, variants and attributions:\n",
        "```python",
        "import spacescale",
        "",
        f'model = spacescale.Predictor.load("FOLDER", species="{first}")',
        "```",
        "",
        "When it is loaded, either way, it is asked a question whose answer lies in "
        "`proof.safetensors`, and refused if it does not give it. There is no tokenizer: the model "
        "takes strings, codes (A 0, C 1, G 2, T 3, N 4) or one-hot bases (B, 4, L).\n",
        "## What comes out\n",
        f"The {model['target_length']} central bins of {bin_bp} bp of each window of "
        f"{model['seq_length']:,} bp, in {SCALES[config['track_scale']]}. Names, assays and means "
        "of all tracks are in `config.json` and `tracks/`.\n",
        _species_table(model["species"]),
        "## How it was trained\n",
        *_training(trained),
        *map(_figure, of_training),
        "## How good it is\n",
        _scores(evaluated),
        *map(_figure, of_tracks),
        "## Limits\n",
        LIMITS + "\n",
        "## Licences\n",
        "- Code and weights: Apache-2.0 unless whoever trained them says otherwise.",
        "- Data: the tracks and genomes it was trained on have licences of their own.\n",
        "## Checksums\n",
        "| file | sha256 |\n|---|---|",
        *(f"| `{path}` | `{checksum}` |" for path, checksum in checksums.items()),
        "",
    ]
    return "\n".join(parts)


def _front_matter(config: dict[str, Any], evaluated: dict[str, Any] | None) -> str:
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: feature-extraction",
        "license: apache-2.0",
        "tags: [dna, genomics, sequence-to-function, mixture-of-experts, custom_code]",
    ]
    rows = [row for row in (evaluated or {}).get("assays", []) if row["assay"] == "all"]
    if rows:
        lines += ["model-index:", "- name: SPACE", "  results:"]
    for row in rows:
        lines += [
            "  - task: {type: other, name: track prediction}",
            f"    dataset: {{type: other, name: {row['species']}, split: test}}",
            "    metrics:",
            "    - {type: pearson_log1p, name: Pearson of log1p per track, "
            f"value: {row['pearson_log1p']:.4f}, verified: false}}",
        ]
    return "\n".join([*lines, "---", ""])


def _species_table(species: dict[str, list[str]]) -> str:
    rows = ["| species | tracks | assays |", "|---|---|---|"]
    for name, assays in species.items():
        counts = [f"{assay} {assays.count(assay)}" for assay in dict.fromkeys(assays)]
        rows.append(f"| {name} | {len(assays)} | {', '.join(counts)} |")
    return "\n".join(rows) + "\n"


def _training(trained: dict[str, Any]) -> list[str]:
    if trained.get("step") is None:
        return ["Imported weights: see `origin` in `config.json`.\n"]
    lines = [f"{trained['step']:,} optimiser steps."]
    versions = ", ".join(f"{name} {v}" for name, v in trained.get("versions", {}).items())
    lines.append(f"With {versions}.\n")
    rows = ["| species | data set (sha256 of its manifest) | split |", "|---|---|---|"]
    splits = trained.get("data_splits", {})
    for name, manifest in trained.get("data_manifests", {}).items():
        rows.append(f"| {name} | `{manifest}` | `{splits.get(name)}` |")
    held_out = "What was held out is what these splits call valid and test.\n"
    return [*lines, "\n".join(rows) + "\n", held_out, *beginning(trained), *_recorded(trained)]


def beginning(trained: dict[str, Any]) -> list[str]:
    """The weights that training began with, and those that they began with, if any is known."""
    began = ", which began with weights of ".join(map(describe_beginning, beginnings(trained)))
    return [f"It began with weights of {began}.\n"] if began else []


def _recorded(trained: dict[str, Any]) -> list[str]:
    """What the run recorded of its losses, and what of this very step."""
    metrics, step, lines = trained["metrics"], trained["step"], []
    of_step = [
        f"{title} {metrics[name]:.4f}"
        for name, (title, _) in RECORDED.items()
        if metrics.get(name) is not None
    ]
    if of_step and metrics.get("step") == step:
        lines.append(f"At step {step:,}, whose weights these are: {', '.join(of_step)}.\n")
    if recorded := trained.get("recorded"):
        lines += ["Over the run, of all species:\n", "| | last | best |\n|---|---|---|"]
        for name, (title, _) in RECORDED.items():
            if name in recorded:
                cells = [f"{v:.4f} (step {s:,})" for s, v in (
                    recorded[name]["last"], recorded[name]["best"])]  # fmt: skip
                lines.append(f"| {title} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _figure(path: str) -> str:
    return f"![{PurePosixPath(path).stem.replace('_', ' ')}]({quote(path)})\n"


def _where(of: dict[str, Any]) -> str:
    """On which contigs the windows lie, where the evaluation tells."""
    return f", on {shorten(of['contigs'], MOST_CONTIGS)}" if "contigs" in of else ""


def _scores(evaluated: dict[str, Any] | None) -> str:
    if evaluated is None:
        return "It came without an evaluation: `spacescale evaluate` makes one.\n"
    names = list(dict.fromkeys(n for row in evaluated["assays"] for n in row["baselines"]))
    rows = [
        f"| species | assay | tracks | Pearson log1p | 95 % | {' | '.join(names)} |",
        "|---|---|---|---|---|" + "---|" * len(names),
    ]
    for row in evaluated["assays"]:
        low, high = row["interval"]
        beside = [
            f"{row['baselines'][n]['value']:.3f}" if n in row["baselines"] else "" for n in names
        ]
        rows.append(
            f"| {row['species']} | {row['assay']} | {row['tracks']} | {row['pearson_log1p']:.3f} | "
            f"{low:.3f} to {high:.3f} | {' | '.join(beside)} |"
        )
    held_out = ", ".join(
        f"{name} {of['windows']:,} windows, {of['bins']:,} bins{_where(of)}"
        for name, of in evaluated["species"].items()
    )
    split = f"Split: {evaluated['split']} ({held_out})."
    return f"{evaluated['definition']}. {split}\n\n" + "\n".join(rows) + "\n"
