"""Weights to fine-tune: SPACE's and encoders', side by side, and how each begins a task."""

from __future__ import annotations

import argparse
import copy
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from spacescale.errors import UserError
from spacescale.model.encoder import Encoder
from spacescale.model.exports import local_folder
from spacescale.model.hybrid import space_alone
from spacescale.model.space import Space
from spacescale.parallel import comm
from spacescale.predict.trained_encoder import holds_tokens, load_trained_encoder
from spacescale.predict.trained_model import load_trained
from spacescale.tasks.task import Task
from spacescale.tokens.vocabulary import Name, Vocabulary
from spacescale.tuning.cost import TuningCost, encoder_tuning_cost, tuning_cost
from spacescale.tuning.encoder_trunk import EncoderTrunk
from spacescale.tuning.settings import (
    RATES_OF_ENCODERS,
    RATES_OF_SPACE,
    Mode,
    Pool,
    TuningSettings,
)
from spacescale.tuning.space_trunk import SpaceTrunk, require_adaptable, require_taught
from spacescale.tuning.starts import Start, starting_space, with_species
from spacescale.tuning.trunk import Trunk
from spacescale.tuning.vocabulary_choice import Overlap, overlap

AUTO = "auto"  # of --vocabulary: the part that suits the task


class Pretrained(ABC):
    """What is fine-tuned.

    name: as results call it; digest: of its weights. layer, pool, rates: what is taken where
    options say nothing. has_batchnorm: whether fresh weights learn statistics of their own.
    """

    name: str
    digest: str
    layer: ClassVar[str]
    pool: ClassVar[Pool]
    rates: ClassVar[tuple[float, ...]]
    has_batchnorm: ClassVar[bool]

    @property
    @abstractmethod
    def bin_size(self) -> int:
        """Of its input."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """By which its rows, and those of fresh weights of its shape, are told from others'."""

    @property
    def teaches(self) -> bool:
        """Whether the trunk has something to be `taught`."""
        return False

    @property
    def choices(self) -> dict[str, Any]:
        """What was decided for the task or asked for, for whoever reads its rows."""
        return {}

    @property
    def notes(self) -> list[str]:
        """The same in words."""
        return []

    @abstractmethod
    def of_task(self, task: Task) -> Self:
        """With what has to be decided for a task. Every process calls it. Raises UserError."""

    @abstractmethod
    def trunk(self, start: Start, settings: TuningSettings) -> Trunk:
        """A model of its own to train: these weights, or fresh ones of the settings' seed."""

    @abstractmethod
    def cost(
        self, mode: Mode, length: int, batch: int, lora_rank: int, gpus: int, on_gpu: bool
    ) -> TuningCost:
        """Of sequences of `length` bp in fp32."""


@dataclass(frozen=True)
class PretrainedSpace(Pretrained):
    """SPACE, for one species; like: see `starting_space`."""

    name: str
    space: Space
    digest: str
    species: str
    like: str | None
    layer = "pointwise"
    pool = "mean"
    rates = RATES_OF_SPACE
    has_batchnorm = True

    @property
    def bin_size(self) -> int:
        """Of its features."""
        return self.space.config.bin_size

    @property
    def facts(self) -> dict[str, Any]:
        """Shape, and whose token and gates are used."""
        model = self.space.config.model_dump(mode="json")
        return {"model": model, "species": (self.species, self.like)}

    @property
    def teaches(self) -> bool:
        """A species that the weights do not know."""
        return self.species not in self.space.species

    @property
    def choices(self) -> dict[str, Any]:
        """The species, and as which one it began if it is new."""
        return {"species": self.species, **({"like": self.like} if self.teaches else {})}

    def of_task(self, task: Task) -> Self:
        """Itself: nothing hangs on the task."""
        return self

    def trunk(self, start: Start, settings: TuningSettings) -> SpaceTrunk:
        """Of the layer and pool of the settings."""
        space = starting_space(self.space, self.species, self.like, start, settings.seed)
        is_new = self.teaches and start == "pretrained"  # of fresh weights everything is
        return SpaceTrunk(space, self.species, settings.layer, settings.pool, is_new)

    def cost(
        self, mode: Mode, length: int, batch: int, lora_rank: int, gpus: int, on_gpu: bool
    ) -> TuningCost:
        """As `tuning_cost`."""
        return tuning_cost(self.space.config, mode, length, batch, lora_rank, gpus, on_gpu=on_gpu)


@dataclass(frozen=True)
class PretrainedEncoder(Pretrained):
    """An encoder of tokens.

    wanted: a part of the vocabulary, or AUTO. part, found: as `of_task` decides, which one a task
    is learnt with and, where there was a choice, the counts that say so.
    """

    name: str
    encoder: Encoder
    digest: str
    vocabulary: Vocabulary
    wanted: str
    part: Name | None = None
    found: Overlap | None = None
    layer = "last"
    pool = "cls"
    rates = RATES_OF_ENCODERS
    has_batchnorm = False

    @property
    def bin_size(self) -> int:
        """None: any length will do."""
        return 1

    @property
    def facts(self) -> dict[str, Any]:
        """Shape, and how sequences become tokens."""
        model = self.encoder.config.model_dump(mode="json")
        return {"model": model, "vocabulary": (self.vocabulary.sha256, self.part)}

    @property
    def choices(self) -> dict[str, Any]:
        """The part of the vocabulary, and how many of a task's own words each part holds."""
        counts = {} if self.found is None else {"shared_words": self.found.shared}
        return {"vocabulary": self.part, **counts}

    @property
    def notes(self) -> list[str]:
        """The same in words."""
        if self.found is None:
            return [f"read as {self.part} tokens"]
        one = self.found
        return [
            f"read as {self.part} tokens: of the {one.words:,} words of the task's training "
            f"sequences ({one.learnt_from}) {one.shared['bpe']:,} are in BPE, "
            f"{one.shared['kmer']:,} among {self.vocabulary.kmer}-mers"
        ]

    def of_task(self, task: Task) -> Self:
        """With the part of the vocabulary that is wanted or, of two, that suits the task."""
        if self.wanted != AUTO:
            return replace(self, part=self.wanted)
        if len(self.vocabulary.names) == 1:
            return replace(self, part=self.vocabulary.names[0])
        found = comm.on_main(lambda: overlap(task, self.vocabulary))
        return replace(self, part=found.choice, found=found)

    def trunk(self, start: Start, settings: TuningSettings) -> EncoderTrunk:
        """Of the pool of the settings."""
        assert self.part is not None, "of_task has chosen"
        encoder = copy.deepcopy(self.encoder)
        if start == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                encoder = Encoder(self.encoder.config)
        return EncoderTrunk(encoder, self.vocabulary, self.part, settings.pool)

    def cost(
        self, mode: Mode, length: int, batch: int, lora_rank: int, gpus: int, on_gpu: bool
    ) -> TuningCost:
        """As `encoder_tuning_cost`."""
        assert self.part is not None, "of_task has chosen"
        sizes = (length, batch, lora_rank, gpus)
        return encoder_tuning_cost(self.encoder.config, self.part, mode, *sizes, on_gpu=on_gpu)


@dataclass(frozen=True)
class Weights:
    """What --weights names, as it was read.

    name, digest: as of a Pretrained. source: where it lies. vocabulary: of an encoder of tokens.
    """

    name: str
    model: Space | Encoder
    digest: str
    source: Path
    vocabulary: Vocabulary | None = None

    @property
    def species(self) -> list[str]:
        """Those that pretraining knew."""
        return list(self.model.species) if isinstance(self.model, Space) else []


def load_weights(args: argparse.Namespace) -> Weights:
    """Read the weights that options name. Raises UserError for what is none."""
    path = local_folder(args.weights)
    name = args.name or args.weights.resolve().name
    if holds_tokens(path):
        encoder = load_trained_encoder(path)
        digest = weights_digest(encoder.model)
        return Weights(name, encoder.model, digest, path, encoder.vocabulary)
    trained = load_trained(path)
    space = space_alone(trained.model)
    return Weights(name, space, weights_digest(space), trained.source)


def pretrained_of(weights: Weights, args: argparse.Namespace, task: str) -> Pretrained:
    """What the options make of weights for a task, so named in messages.

    Raises UserError for options that make no sense for them.
    """
    if isinstance(weights.model, Encoder):
        return _encoder(weights, weights.model, args)
    return _space(weights, weights.model, args, task)


def _space(weights: Weights, space: Space, args: argparse.Namespace, task: str) -> PretrainedSpace:
    source = weights.source
    if args.vocabulary is not None:
        raise UserError(f"--vocabulary {args.vocabulary}: {source} reads bases, not tokens")
    if args.pool == "cls":
        raise UserError("--pool cls: there are mean, sum, max; [CLS] is a token of encoders")
    species = with_species(space, args.species, args.like, str(source), task)
    layer = args.layer or PretrainedSpace.layer
    if layer not in space.layers:
        raise UserError(f"--layer {layer}: there are {', '.join(space.layers)}")
    if args.mode == "lora":
        require_adaptable(space, layer)
    if args.mode == "head" and species not in space.species:
        raise UserError(
            f"--species {species}: --mode head learns nothing of a species that {source} "
            f"does not know; expected {', '.join(space.species)}, or --mode lora or full"
        )
    if args.species_lr is not None:
        require_taught(space, species, layer, f"--species-lr {args.species_lr:g}")
    return PretrainedSpace(weights.name, space, weights.digest, species, args.like)


def _encoder(weights: Weights, encoder: Encoder, args: argparse.Namespace) -> PretrainedEncoder:
    source, vocabulary = weights.source, weights.vocabulary
    assert vocabulary is not None, "read with the encoder"
    for option, value, why in (
        ("--species", args.species, "knows no species"),
        ("--like", args.like, "knows no species"),
        ("--species-lr", args.species_lr, "knows no species"),
        ("--layer", args.layer, "gives features of its last layer alone"),
        ("--live-batchnorm", args.live_batchnorm, "has no BatchNorm"),
        ("--shift", args.shift, "has no words for the unknown bases at the ends of what is moved"),
    ):
        if value:
            raise UserError(f"{option}: {source} is an encoder of tokens, which {why}")
    names, wanted = vocabulary.names, args.vocabulary or AUTO
    if wanted not in (AUTO, *names):
        raise UserError(f"--vocabulary {wanted}: {source} knows {' and '.join(names)}")
    return PretrainedEncoder(weights.name, encoder, weights.digest, vocabulary, wanted)


def weights_digest(model: nn.Module) -> str:
    """Of all weights, by which results of other weights are told apart."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(name.encode() + flat.numpy().tobytes())
    return found.hexdigest()[:16]
