"""A fine-tuned model in a folder, and its answers to sequences.

Files: `config.json`, `model.safetensors` (adapters are part of the weights) and, of an encoder of
tokens, `vocabulary/`.
"""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spacescale.config import describe_errors, kind_of
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.files import new_files, new_folder, read_json, write_json
from spacescale.model.encoder import Encoder
from spacescale.model.exports import load_weights
from spacescale.model.space import Space
from spacescale.predict.sequence_embeddings import Named
from spacescale.space_config import ModelConfig
from spacescale.tasks.task import Examples, Kind, Task
from spacescale.tokens.vocabulary import Name, read_vocabulary
from spacescale.tuning.batches import Reader
from spacescale.tuning.criterion import Criterion
from spacescale.tuning.encoder_trunk import EncoderTrunk
from spacescale.tuning.encoding import VOCABULARY, Bases, Encoding, Tokens
from spacescale.tuning.fit import answers
from spacescale.tuning.sequence_model import SequenceModel, merge_adapters
from spacescale.tuning.settings import Pool
from spacescale.tuning.space_trunk import SpaceTrunk
from spacescale.tuning.trunk import Trunk

FORMAT, VERSION = "spacescale-tuned", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class _Config(BaseModel, extra="forbid"):
    """config.json, but for what is the trunk's."""

    format: str
    version: int
    pool: Pool
    task: str
    kind: Kind
    outputs: tuple[str, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    both_strands: bool
    trained: dict[str, Any]

    @abstractmethod
    def build(self, folder: Path) -> tuple[Trunk, Encoding]:
        """The trunk, without its weights, and what makes its input. Raises UserError."""


class _SpaceConfig(_Config):
    """as_is, least: how sequences are filled up, see `Bases`."""

    model: ModelConfig
    species: str
    layer: str
    as_is: int | None
    least: int

    def build(self, folder: Path) -> tuple[Trunk, Encoding]:
        trunk = SpaceTrunk(Space(self.model), self.species, self.layer, self.pool)
        return trunk, Bases(self.model.bin_size, self.as_is, self.least)


class _EncoderConfig(_Config):
    """vocabulary: the part of it that sequences are read with; vocabulary_sha256: its identity."""

    model: EncoderConfig
    vocabulary: Name
    vocabulary_sha256: str

    def build(self, folder: Path) -> tuple[Trunk, Encoding]:
        place = folder / VOCABULARY
        vocabulary = read_vocabulary(place)
        if vocabulary.sha256 != self.vocabulary_sha256:
            raise UserError(
                f"{place}: not the vocabulary that the model was trained with (sha256 "
                f"{vocabulary.sha256[:12]}, expected {self.vocabulary_sha256[:12]})"
            )
        trunk = EncoderTrunk(Encoder(self.model), vocabulary, self.vocabulary, self.pool)
        return trunk, Tokens(vocabulary, self.vocabulary)


CONFIGS: dict[str, type[_Config]] = {"space": _SpaceConfig, "encoder": _EncoderConfig}


@dataclass(frozen=True)
class TunedModel:
    """What answers to sequences: probabilities of classes or labels, or values."""

    model: SequenceModel
    criterion: Criterion
    outputs: tuple[str, ...]
    encoding: Encoding
    both_strands: bool

    def answers(self, codes: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
        """Answer to N sequences, codes uint8 (L,) each: float32 (N, C).

        Raises UserError for none, or an empty one.
        """
        if not len(codes):
            raise UserError("there are no sequences to answer to")
        if empty := [i for i, one in enumerate(codes, 1) if not len(one)]:
            raise UserError(f"sequence {empty[0]}: a sequence of 0 bp")
        place = torch.device(device)
        examples = Examples(list(codes), np.zeros(len(codes)), [])
        reader = Reader(examples, self.encoding)
        return answers(self.model.to(place), reader, self.criterion, self.both_strands, place)


def save_tuned(
    folder: Path,
    model: SequenceModel,
    criterion: Criterion,
    encoding: Encoding,
    task: Task,
    both_strands: bool,
    trained: dict[str, Any],
) -> None:
    """Write a model that has learnt a task, in place of one that stands there.

    encoding: by which it read the sequences of the task.
    """
    merge_adapters(model)
    trunk = model.trunk
    values = {
        "format": FORMAT,
        "version": VERSION,
        "pool": trunk.pool,
        "task": task.name,
        "kind": task.kind,
        "outputs": task.outputs,
        "centre": tuple(criterion.centre.tolist()),
        "spread": tuple(criterion.spread.tolist()),
        "both_strands": both_strands,
        "trained": trained,
    }
    config = CONFIGS[trunk.name](**values, **trunk.facts, **encoding.facts)
    with new_folder(folder, replace=True) as part:
        weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        save_file(weights, part / WEIGHTS, metadata={"format": "pt"})
        write_json(part / CONFIG, config.model_dump(mode="json"), indent=1)
        encoding.attach(part)


def load_tuned(folder: Path) -> TunedModel:
    """The model of a folder, in evaluation mode. Raises UserError naming what is wrong with it."""
    path = folder / CONFIG
    payload = read_json(path)
    if (found := (payload.get("format"), payload.get("version"))) != (FORMAT, VERSION):
        raise UserError(f"{path}: format {found[0]!r} version {found[1]!r}; expected {FORMAT!r} "
                        f"version {VERSION}, as `spacescale finetune` keeps it")  # fmt: skip
    kind = kind_of(payload.get("model", {}))
    try:
        config = CONFIGS.get(kind, _SpaceConfig).model_validate(payload)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_errors(error)}") from None
    trunk, encoding = config.build(folder)
    model = SequenceModel(trunk, len(config.outputs))
    try:
        load_weights(model, load_file(folder / WEIGHTS), str(folder))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read: {error}") from None
    criterion = Criterion(
        config.kind,
        torch.ones(len(config.outputs)),
        torch.tensor(config.centre),
        torch.tensor(config.spread),
    )
    return TunedModel(model.eval(), criterion, config.outputs, encoding, config.both_strands)


def write_answers(tuned: TunedModel, sequences: Sequence[Named], out: Path) -> None:
    """A table of the answers to named sequences: name, then a column for each output."""
    with new_files(out) as (part,), part.open("w", newline="") as file:
        found = tuned.answers([one.codes for one in sequences])
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["name", *tuned.outputs])
        for one, values in zip(sequences, found, strict=True):
            rows.writerow([one.name, *(f"{value:.6g}" for value in values)])
