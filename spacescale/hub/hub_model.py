"""SPACE as transformers loads it.

In an exported folder this stands behind the package's own model code, in `modeling_space.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from spacescale.hub.hub_config import SpaceConfig
from spacescale.hub.proved import ProvedModel
from spacescale.model.proof import disproof
from spacescale.model.space import Space
from spacescale.space_config import ModelConfig

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


class SpacePreTrainedModel(ProvedModel):
    """SPACE, and its proof."""

    config_class = SpaceConfig
    base_model_prefix = "space"
    main_input_name = "sequences"
    _no_split_modules = ["TransformerBlock"]  # noqa: RUF012
    space: Space

    def disproved(self, question: dict[str, str], stored: dict[str, Tensor]) -> str:
        """How the model's answers differ from the stored ones, "" where they do not."""
        return disproof(self.space, encode(question["sequence"]).to(self.device), stored)

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
