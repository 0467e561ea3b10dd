"""A folder of exported weights: what is read of it, and weights held against a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from spacescale.bases_config import BasesConfig
from spacescale.config import TrackScaleName, describe_errors, kind_of
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.files import read_json
from spacescale.genome.dna import encode
from spacescale.mlm_config import MlmConfig
from spacescale.model.hybrid import HybridSpace
from spacescale.model.proof import disproof
from spacescale.model.proof_file import PROOF_FILE
from spacescale.model.space import Space, meta_model
from spacescale.space_config import ModelConfig

EXPORT_FORMAT, EXPORT_VERSION = "spacescale-model", 1
SAFETENSORS, SHARD_INDEX = "model.safetensors", "model.safetensors.index.json"
LISTED_PROBLEMS = 5
# By the names of huggingface_hub's errors, and by HTTP status; their own texts take several lines.
HUB_ERRORS = {
    "RevisionNotFoundError": "it has no such branch, tag or commit",
    "GatedRepoError": "who wants it must first accept its terms there",
    "RepositoryNotFoundError": "no such repository, or one that this login must not see",
    "LocalEntryNotFoundError": "it cannot be reached, and no copy is here",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
}
HUB_REFUSALS = {
    401: "no valid login (`hf auth login`, or a token in HF_TOKEN)",
    403: "this login has no right to do so",
}


def load_export(folder: Path, prove: bool = True) -> Space:
    """The model of a folder, in evaluation mode, on the CPU; UserError as `from_pretrained`.

    prove: where the folder holds a proof, have the model answer its question; UserError if the
    answer is another.
    """
    payload = read_export(folder)
    config = ModelConfig.model_validate(payload["model"])
    model = _build(config, payload.get("bases")).eval()
    load_weights(model, read_weights(folder), str(folder))
    if prove and (folder / PROOF_FILE).is_file():
        _prove(model, folder / PROOF_FILE)
    return model


def require_no_bases(folder: Path) -> None:
    """UserError for an export that holds a head of hidden bases: elsewhere it has no place."""
    if "bases" in _read_config(folder):
        raise UserError(
            f"{folder}: holds the head of hidden bases; convert the run itself, or an export that "
            "was made without --with-bases"
        )


def _build(config: ModelConfig, bases: dict[str, Any] | None) -> Space:
    """On the meta device; with its head where the export has that of hidden bases."""
    if bases is None:
        return meta_model(config)
    with torch.device("meta"):
        return HybridSpace(config, BasesConfig.model_validate(bases))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weights by name; UserError for files missing or damaged."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= read_tensors(path)
    return weights


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Each tensor of a file in memory of its own, aligned as torch aligns it; nothing stays mapped.

    UserError where it cannot be read.
    """
    try:
        with safe_open(str(path), "pt", backend="pread") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _prove(model: Space, path: Path) -> None:
    try:
        with safe_open(str(path), "pt") as file:
            sequence = file.metadata()["sequence"]
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    wrong = disproof(model, torch.from_numpy(encode(sequence))[None], stored)
    if wrong:
        raise UserError(
            f"{path.parent}: these weights do not compute what they did when they were exported: "
            f"{wrong}"
        )


def local_folder(where: str | Path, revision: str | None = None) -> Path:
    """The folder itself or, of ORG/NAME where no folder ORG is here, its copy from the Hub.

    revision: branch, tag or commit there. Raises UserError where it is neither here nor there, or
    cannot be reached.
    """
    folder = Path(where)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", str(where))
    if folder.exists() or not named or folder.parent.exists():
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{where}: no such folder; of the Hub, it is loaded with: pip install 'spacescale[hub]'"
        ) from None
    try:
        return Path(snapshot_download(str(where), revision=revision))
    except Exception as error:  # of whatever the library and the network may raise
        reason = reason_of_the_hub(error)
        raise UserError(f"{where}: no such folder, and not from the Hub: {reason}") from None


def reason_of_the_hub(error: Exception) -> str:
    """One line on why the Hub, its library or the network did not do what was asked."""
    for kind in type(error).__mro__:
        if kind.__name__ in HUB_ERRORS:
            return HUB_ERRORS[kind.__name__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or ""
    if status in HUB_REFUSALS:
        return ": ".join([HUB_REFUSALS[status], *said.splitlines()[:1]])
    lines = [str(e).strip().splitlines() for e in (error, error.__cause__) if e is not None]
    return ": ".join(line[0] for line in lines if line) or repr(error)


def weight_files(folder: Path) -> list[Path]:
    """The one file of weights, or those that an index names; UserError where one is not there."""
    names = [SAFETENSORS]
    if (folder / SHARD_INDEX).is_file():
        names = sorted(set(read_json(folder / SHARD_INDEX)["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file")
    return [folder / name for name in names]


def is_export(folder: Path) -> bool:
    """Whether a folder holds exported weights, in one file or several."""
    return (folder / SAFETENSORS).is_file() or (folder / SHARD_INDEX).is_file()


class Beginning(BaseModel):
    """The weights that a training began with: where they lay, which, and their training.

    path: as the user named them. digest, step, seq_length: None where they do not tell.
    reads_anywhere: whether it read windows that are none of the data sets' own. began_with: what
    they began with themselves; None where it was nothing, and missing where that was not kept.
    """

    path: str
    digest: str | None
    step: int | None
    seq_length: int | None
    reads_anywhere: bool
    data_manifests: dict[str, str | None]
    data_splits: dict[str, str | None]
    began_with: Beginning | None = None


class _Trained(BaseModel):
    step: int | None
    metrics: dict[str, float | None]
    loss: dict[str, Any] = {}
    data_manifests: dict[str, str | None]
    data_splits: dict[str, str | None] = {}
    data_transforms: dict[str, str] = {}
    data_contigs: dict[str, dict[str, int]] = {}
    began_with: Beginning | None = None  # as in the checkpoint's state
    versions: dict[str, str]


class _Export(BaseModel):
    """What is read of an export's `config.json`, and its types."""

    model: ModelConfig
    track_scale: TrackScaleName
    trained: _Trained


class _EncoderExport(BaseModel):
    """The same of an encoder's."""

    model: EncoderConfig
    mlm: MlmConfig
    trained: _Trained


def holds_encoder(folder: Path) -> bool:
    """Whether an export's model is an encoder of tokens; UserError as `read_export`."""
    return kind_of(_read_config(folder).get("model", {})) == "encoder"


def read_export(folder: Path) -> dict[str, Any]:
    """Read `config.json` of an export of SPACE; UserError if it is missing or no such export."""
    if holds_encoder(folder):
        raise UserError(
            f"{folder}: an encoder of tokens, which predicts no tracks; expected an export of a "
            "model of profiles (SPACE)"
        )
    return _checked(folder, _Export)


def read_encoder_export(folder: Path) -> dict[str, Any]:
    """Read `config.json` of an export of an encoder; UserError as `read_export`."""
    if not holds_encoder(folder):
        raise UserError(
            f"{folder}: a model of profiles (SPACE); expected an export of an encoder of tokens"
        )
    return _checked(folder, _EncoderExport)


def _checked(folder: Path, kind: type[BaseModel]) -> dict[str, Any]:
    payload = _read_config(folder)
    try:
        kind.model_validate(payload)
    except ValidationError as error:
        raise UserError(f"{folder / 'config.json'}: {describe_errors(error)}") from None
    return payload


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a folder written by `spacescale convert`")
    payload = read_json(path)
    found = payload.get("format"), payload.get("format_version")
    if found != (EXPORT_FORMAT, EXPORT_VERSION):
        raise UserError(
            f"{path}: format {found[0]!r} version {found[1]!r}; "
            f"expected {EXPORT_FORMAT!r} version {EXPORT_VERSION}"
        )
    return payload


def check_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> None:
    """Hold weights against what is expected; the values of `expected` are not looked at.

    Raises UserError naming the first keys that are missing, unexpected, of another shape, or
    whole numbers instead of floating point or the reverse.
    """
    problems = [f"missing {key}" for key in expected if key not in weights]
    problems += [f"unexpected {key}" for key in weights if key not in expected]
    for key in expected.keys() & weights.keys():
        found, wanted = weights[key], expected[key]
        if found.shape != wanted.shape:
            problems.append(f"{key} is {tuple(found.shape)}, expected {tuple(wanted.shape)}")
        elif found.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{key} is {found.dtype}, expected {wanted.dtype}")
    if problems:
        more = len(problems) - LISTED_PROBLEMS
        rest = f" and {more} more" if more > 0 else ""
        raise UserError(f"{source}: {'; '.join(sorted(problems)[:LISTED_PROBLEMS])}{rest}")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Make a complete state dict the model's own, without a copy of tensors that fit as they are.

    model: may be on the meta device. UserError names the first keys that do not fit.
    """
    expected = model.state_dict()
    check_weights(weights, expected, source)
    fitting = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    model.load_state_dict(fitting, assign=True)
