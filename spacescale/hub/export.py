"""Write the folder that transformers, and we, load: weights, one `config.json`, code, proof, card.

The folder is an export as `spacescale convert` writes it, with more in it. Nothing of what is
added needs this package.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from spacescale.checkpoint.convert import write_export
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.probe import Agreement
from spacescale.errors import UserError
from spacescale.files import files_below, new_folder, read_json, sha256, write_json, write_text
from spacescale.genome.dna import encode
from spacescale.genome.tracks import read_tracks
from spacescale.hub.card import RECORDED, card
from spacescale.hub.contents import EXPORTED, is_among, named_files
from spacescale.hub.encoder_card import encoder_card
from spacescale.hub.sources import ENCODER, SPACE, Code, configuration_source, modeling_source
from spacescale.metrics.writer import METRICS_FILE, read_metrics
from spacescale.model.encoder_export import load_encoder
from spacescale.model.encoder_proof import ANSWER, encoder_answer
from spacescale.model.exports import holds_encoder, is_export, require_no_bases
from spacescale.model.proof import PROOF_BP, make_proof, proof_sequence
from spacescale.model.proof_file import PROOF_FILE
from spacescale.model.space import Space

ARCHITECTURE = "SpaceModel"
AUTO_MAP = {
    "AutoConfig": "configuration_space.SpaceConfig",
    "AutoModel": "modeling_space.SpaceModel",
    "AutoModelForSequenceClassification": "modeling_space.SpaceForSequenceClassification",
}
ENCODER_AUTO_MAP = {
    "AutoConfig": "configuration_encoder.TokenEncoderConfig",
    "AutoModel": "modeling_encoder.TokenEncoderModel",
    "AutoModelForMaskedLM": "modeling_encoder.TokenEncoderForMaskedLM",
}


def convert_for_hub(source: Path, out: Path) -> Agreement | None:
    """Write a folder for the Hub from a run (its best checkpoint), a checkpoint or an export.

    Offline, on one CPU; one copy of the weights is in memory. Returns and raises as
    `checkpoint.convert`; of an export there is no agreement.
    """
    with new_folder(out) as partial:
        agreement, recorded = None, {}
        if is_export(source):
            require_no_bases(source)
            _copy_export(source, partial)
            evaluation = _evaluation(source)
        else:
            checkpoint = find_best(source)
            if checkpoint is None:
                raise UserError(f"{source}: no run folder, checkpoint or export")
            agreement = write_export(checkpoint, partial)
            run = checkpoint.absolute().parent.parent
            evaluation, recorded = _evaluation(run, checkpoint), _recorded(run)
        complete(partial, evaluation, recorded)
    return agreement


def complete(folder: Path, evaluation: Path | None, recorded: dict[str, Any]) -> None:
    """Make an export's folder one that transformers loads.

    evaluation: folder of one, for the card; its figures are copied. recorded: name of a score of
    the run → "last" and "best" → step and value; kept in `config.json`, for the card.
    """
    if holds_encoder(folder):
        _complete_encoder(folder)
        return
    code_sha256 = _write_code(folder, SPACE)
    model = Space.from_pretrained(folder)
    _write_proof(folder / PROOF_FILE, model)
    config = read_json(folder / "config.json") | {
        "architectures": [ARCHITECTURE],
        "model_type": "spacescale",
        "auto_map": AUTO_MAP,
        "dtype": "float32",
        "tracks": _tracks(folder),
        "code_sha256": code_sha256,
    }
    if recorded:
        config["trained"] = config["trained"] | {"recorded": recorded}
    write_json(folder / "config.json", config, indent=1)
    checksums = {name: sha256(path) for name, path in named_files(folder).items()}
    evaluated, figures = None, []
    if evaluation is not None:
        evaluated = read_json(evaluation / "metrics.json")
        figures = _copy_figures(evaluation, folder)
    parameters = sum(p.numel() for p in model.parameters())
    text = card(config, parameters, evaluated, figures, checksums)
    write_text(folder / "README.md", text)
    write_text(folder / "LICENSE", _licence())


def _complete_encoder(folder: Path) -> None:
    """The same of an encoder; its card tells no scores but those that its config.json holds."""
    code_sha256 = _write_code(folder, ENCODER)
    model = load_encoder(folder)
    answer = encoder_answer(model)
    if not answer.isfinite().all():
        raise UserError(f"not converted: what the model predicts is not finite: {ANSWER}")
    _save_proof(folder / PROOF_FILE, {ANSWER: answer}, {})
    config = read_json(folder / "config.json") | {
        "architectures": ["TokenEncoderForMaskedLM"],
        "model_type": "spacescale-encoder",
        "auto_map": ENCODER_AUTO_MAP,
        "dtype": "float32",
        "code_sha256": code_sha256,
    }
    write_json(folder / "config.json", config, indent=1)
    checksums = {name: sha256(path) for name, path in named_files(folder).items()}
    parameters = sum(p.numel() for p in model.parameters())
    write_text(folder / "README.md", encoder_card(config, parameters, checksums))
    write_text(folder / "LICENSE", _licence())


def _write_code(folder: Path, code: Code) -> str:
    """Returns the sha256 of the model's file."""
    text = modeling_source(code)
    write_text(folder / code.configuration, configuration_source(code))
    write_text(folder / code.modeling, text)
    return hashlib.sha256(text.encode()).hexdigest()


def _licence() -> str:
    """Of the package: beside its sources, or with what was installed."""
    beside = Path(__file__).parents[2]
    if (beside / "pyproject.toml").is_file():
        return (beside / "LICENSE").read_text()
    installed = importlib.metadata.distribution("spacescale").read_text("licenses/LICENSE")
    return installed or "Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0\n"


def _write_proof(path: Path, model: Space) -> None:
    # As long as bins that are predicted take, where that is less: no window of a large model.
    length = min(PROOF_BP, model.config.seq_length)
    sequence = proof_sequence(length)
    codes = torch.from_numpy(encode(sequence))[None]
    proof = make_proof(model, codes)
    for name, answer in proof.items():
        if not answer.isfinite().all():
            raise UserError(f"not converted: what the model predicts is not finite: {name}")
    _save_proof(path, proof, {"sequence": sequence})


def _save_proof(path: Path, proof: dict[str, torch.Tensor], question: dict[str, str]) -> None:
    save_file(proof, path, metadata={"format": "pt"} | question)
    path.chmod(path.parent.stat().st_mode & 0o666)


def _tracks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What a user of the weights must know of each track, by species, in the order of the heads."""
    tables = [path for path in files_below(folder / "tracks") if path.suffix == ".tsv"]
    return {
        path.stem: [
            {
                "name": track.identifier,
                "assay": track.assay,
                "description": track.description,
                "mean": None if math.isnan(track.mean) else track.mean,
                "strand_pair": track.strand_pair,
            }
            for track in read_tracks(path)
        ]
        for path in sorted(tables)
    }


def _copy_export(source: Path, folder: Path) -> None:
    """Only what an export holds: what else lies there is not for others."""
    for name, path in named_files(source).items():
        if is_among(name, EXPORTED):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(path, folder / name)


def _copy_figures(evaluation: Path, folder: Path) -> list[str]:
    """Returns their names in the folder."""
    names = []
    for path in sorted((evaluation / "figures").glob("*.png")):
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copy(path, folder / "figures" / path.name)
        names.append(f"figures/{path.name}")
    return names


def _evaluation(folder: Path, model: Path | None = None) -> Path | None:
    """The test scores that lie with a run or an export, of this checkpoint where one is named."""
    evaluation = folder / "evaluation" / "test"
    if not (evaluation / "metrics.json").is_file():
        return None
    evaluated = read_json(evaluation / "metrics.json")
    if model is not None and Path(evaluated["model"]).name != model.name:
        return None
    return evaluation


def _recorded(run: Path) -> dict[str, Any]:
    """Last and best of a run's losses and scores, each with its step, from its own records."""
    if not (run / METRICS_FILE).is_file():
        return {}
    found = {}
    records = read_metrics(run / METRICS_FILE)
    for name, (_, better) in RECORDED.items():
        points = [(r["step"], r[name]) for r in records if r.get(name) is not None]
        if points:
            best = better(points, key=lambda point: point[1])
            found[name] = {"last": list(points[-1]), "best": list(best)}
    return found
