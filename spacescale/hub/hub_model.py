"""SPACE as transformers loads it.

In an exported folder this stands behind the package's own model code, in `modeling_space.py`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from spacescale.config import ModelConfig
from spacescale.hub.hub_config import SpaceConfig
from spacescale.model.proof import PROOF_FILE, disproof
from spacescale.model.space import Space

logger = logging.getLogger(__name__)

LETTERS = {letter: code for code, pair in enumerate(("Aa", "Cc", "Gg", "TtUu")) for letter in pair}
UNKNOWN = 4  # N, and other letters of the IUPAC alphabet
AMBIGUOUS = frozenset("NRYSWKMBDHVXnryswkmbdhvx")


def encode(sequences: str | Sequence[str]) -> Tensor:
    """Letters to codes, A 0, C 1, G 2, T 3, N 4: uint8 (1, L), or (B, L) of strings of one length.

    Raises ValueError for a letter that is no DNA, and for several lengths.
    """
    texts = [sequences] if isinstance(sequences, str) else list(sequences)
    if len({len(text) for text in texts}) != 1:
        raise ValueError("expected at least one sequence, all of one length")
    for text in texts:
        if wrong := sorted(set(text) - LETTERS.keys() - AMBIGUOUS):
            raise ValueError(f"{wrong[0]!r} is no DNA letter")
    codes = [[LETTERS.get(letter, UNKNOWN) for letter in text] for text in texts]
    return torch.tensor(codes, dtype=torch.uint8)


@dataclass
class SpaceModelOutput(ModelOutput):
    """Tracks and features of windows of one species."""

    last_hidden_state: Tensor | None = None  # (B, N, 2D), of the bins that are predicted
    tracks: Tensor | None = None  # (B, N, T) float32, multiples of each track's training mean


class SpacePreTrainedModel(PreTrainedModel):
    """Loads weights strictly, and has them proved before they are used."""

    config_class = SpaceConfig
    base_model_prefix = "space"
    main_input_name = "sequences"
    _no_split_modules = ["TransformerBlock"]  # noqa: RUF012
    _proof: Path | None = None  # what is still to be proved
    space: Space

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every module initialises its weights where it is made, and a model whose
        file lacks some is refused."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, prove: bool = True, **options: Any
    ) -> Any:
        """As of every transformers model; raises ValueError where weights are missing, left over or
        cannot be read.

        prove: have the model answer the question of `proof.safetensors`; RuntimeError if the answer
        is not the one that was exported. Heads that are new, as of a classifier, may be missing.
        """
        asked_for_info = options.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **options
            )
        except SafetensorError as error:
            raise _unreadable(pretrained_model_name_or_path, error) from None
        model, info = loaded
        wrong = {
            kind: sorted(map(str, info.get(kind) or ()))
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        wrong["missing_keys"] = [k for k in wrong["missing_keys"] if not model.is_new(k)]
        if any(wrong.values()):
            found = "; ".join(
                f"{kind}: {', '.join(keys[:5])}" for kind, keys in wrong.items() if keys
            )
            raise ValueError(
                f"{pretrained_model_name_or_path}: not the weights of this model: {found}"
            )
        if prove:
            where = {
                name: options[name]
                for name in ("cache_dir", "revision", "token", "local_files_only", "subfolder")
                if name in options
            }
            proof = cached_file(
                pretrained_model_name_or_path, PROOF_FILE,
                _raise_exceptions_for_missing_entries=False, **where,
            )  # fmt: skip
            if proof is None:
                logger.warning("%s holds no proof of its weights", pretrained_model_name_or_path)
            else:
                model._proof = Path(proof)
        if model.device.type != "meta":  # else weights come when it is used
            model.prove()
        return (model, info) if asked_for_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """As of every transformers model; a proof that lies there is that of other weights."""
        super().save_pretrained(save_directory, *args, **options)
        (Path(save_directory) / PROOF_FILE).unlink(missing_ok=True)

    def is_new(self, key: str) -> bool:
        """Whether a weight is none of those that were exported."""
        return key.removeprefix("space.").split(".")[0] not in {
            name for name, _ in self.space.named_children()
        }

    def prove(self) -> None:
        """Raise RuntimeError unless the model answers as it did when it was exported."""
        if self._proof is None:
            return
        try:
            with safe_open(str(self._proof), "pt") as file:
                sequence = file.metadata()["sequence"]
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise _unreadable(self._proof.parent, error) from None
        wrong = disproof(self.space, encode(sequence).to(self.device), stored)
        code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        if self.config.code_sha256 not in (None, code) and wrong:
            wrong += "; and modeling_space.py is not the one that was exported"
        if wrong:
            raise RuntimeError(
                f"{self._proof.parent}: this model does not compute what it did when it was "
                f"exported: {wrong}. from_pretrained(…, prove=False) switches this check off"
            )
        self._proof = None

    def _prepared(
        self, sequences: str | Sequence[str] | Tensor, species: str | None
    ) -> tuple[Tensor, str]:
        self.prove()
        if species is None:
            species, *others = self.space.species
            if others:
                raise ValueError(f"say which species is meant: {', '.join(self.space.species)}")
        batch = sequences if isinstance(sequences, Tensor) else encode(sequences)
        return batch.to(self.device), species


def _unreadable(where: Any, error: SafetensorError) -> ValueError:
    """Which of a folder's files is not whole, which the library does not say."""
    for path in sorted(Path(where).glob("*.safetensors")):
        try:
            with safe_open(str(path), "pt"):
                pass
        except SafetensorError:
            where = path
            break
    return ValueError(f"{where}: damaged, or not downloaded as a whole: {error}")


class SpaceModel(SpacePreTrainedModel):
    """Predicts tracks of DNA windows, and features of DNA of any length.

    `forward` takes windows of `config.model["seq_length"]` bp, `embed` any length: strings, codes
    (B, L) uint8 (A0 C1 G2 T3 N4), or bases (B, 4, L) float, through which gradients flow.
    """

    def __init__(self, config: SpaceConfig):
        super().__init__(config)
        self.space = Space(ModelConfig(**config.model))
        self.post_init()

    def forward(
        self,
        sequences: str | Sequence[str] | Tensor,
        species: str | None = None,
        return_dict: bool | None = None,
    ) -> SpaceModelOutput | tuple[Tensor, ...]:
        """Predict windows of one species, which must be named where the model knows several."""
        batch, name = self._prepared(sequences, species)
        output = self.space({name: batch})
        found = SpaceModelOutput(
            output.embedding[name], self._in_means(output.prediction[name], name)
        )
        return found.to_tuple() if return_dict is False else found

    def embed(
        self,
        sequences: str | Sequence[str] | Tensor,
        species: str | None = None,
        layer: str = "pointwise",
    ) -> Tensor:
        """Features (B, positions, channels) of sequences of one length from 1 bp on.

        layer: one of `model.space.layers`.
        """
        batch, name = self._prepared(sequences, species)
        return self.space.embed(batch, name, layer)

    def _in_means(self, prediction: Tensor, species: str) -> Tensor:
        scale = self.config.track_scale
        if scale == "log1p":
            return prediction.expm1()
        if scale == "none":
            means = [track["mean"] for track in self.config.tracks[species]]
            means = [mean if mean and mean > 0 else 1.0 for mean in means]
            return prediction / torch.tensor(means, device=prediction.device)
        return prediction


class SpaceForSequenceClassification(SpacePreTrainedModel):
    """Classes or numbers from the mean of a sequence's features."""

    def __init__(self, config: SpaceConfig):
        super().__init__(config)
        self.space = Space(ModelConfig(**config.model))
        self.classifier = nn.Linear(2 * self.space.config.dim, config.num_labels or 2)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The classifier is new, and no file holds it."""
        if module is self.classifier:
            self.classifier.reset_parameters()

    def forward(
        self,
        sequences: str | Sequence[str] | Tensor,
        species: str | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Logits (B, labels) and, with labels, the loss: squared error of one, else entropy."""
        batch, name = self._prepared(sequences, species)
        logits = self.classifier(self.space.embed(batch, name).mean(1))
        loss = None
        if labels is not None and logits.shape[1] == 1:
            loss = F.mse_loss(logits[:, 0], labels.to(logits.dtype))
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)
        found = SequenceClassifierOutput(loss=loss, logits=logits)
        return found.to_tuple() if return_dict is False else found
