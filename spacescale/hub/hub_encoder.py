"""An encoder of tokens as transformers loads it.

In an exported folder this stands behind the package's own model code, in `modeling_encoder.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from spacescale.encoder_config import EncoderConfig
from spacescale.hub.hub_encoder_config import TokenEncoderConfig
from spacescale.hub.proved import ProvedModel
from spacescale.model.encoder import Encoder
from spacescale.model.encoder_proof import encoder_disproof

VOCABULARY = "vocabulary/vocabulary.json"
PROMPTS = {"bpe": "[BPE]", "kmer": "[KMER]"}  # of rows, where there are several vocabularies


def merged(letters: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Words of a sequence: of all neighbours, those that merge earliest, again and again."""
    words = list(letters)
    while True:
        known = [pair for pair in set(pairwise(words)) if pair in ranks]
        if not known:
            return words
        first = min(known, key=ranks.__getitem__)
        joined: list[str] = []
        for word in words:
            if joined and (joined[-1], word) == first:
                joined[-1] += word
            else:
                joined.append(word)
        words = joined


class EncoderPreTrainedModel(ProvedModel):
    """An encoder, its vocabulary, and its proof."""

    config_class = TokenEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _no_split_modules = ["EncoderLayer"]  # noqa: RUF012
    encoder: Encoder

    def __init__(self, config: TokenEncoderConfig):
        super().__init__(config)
        self.encoder = Encoder(EncoderConfig(**config.model))
        self.post_init()

    def disproved(self, question: dict[str, str], stored: dict[str, Tensor]) -> str:
        """How the encoder's answer differs from the stored one, "" where it does not."""
        return encoder_disproof(self.encoder, stored)

    @cached_property
    def vocabulary(self) -> dict[str, Any]:
        """What the folder's vocabulary.json holds."""
        path = self.file_of(VOCABULARY)
        if path is None:
            raise ValueError(f"{VOCABULARY} is not in the folder that was loaded")
        return json.loads(Path(path).read_text(encoding="utf-8"))

    def encode(
        self, sequences: str | Sequence[str], vocabulary: str | None = None
    ) -> dict[str, Tensor]:
        """Letters to `input_ids` and `attention_mask`, (B, N) int64 each, as training read them.

        vocabulary: "bpe" or "kmer", which must be named where the model knows both. Letters other
        than A, C, G and T are unknown; U is T. Sequences of any length.
        """
        names = list(self.config.mlm["vocabularies"])
        name = names[0] if vocabulary is None and len(names) == 1 else vocabulary
        if name is None or name not in names:
            raise ValueError(f"vocabulary {name!r}: say which is meant: {', '.join(names)}")
        content = self.vocabulary
        ids = {token: number for number, token in enumerate(content["tokens"])}
        pairs = (tuple(merge.split(" ")) for merge in content["merges"])
        ranks: dict[Any, int] = {pair: rank for rank, pair in enumerate(pairs)}
        head = ["[CLS]", PROMPTS[name]] if len(names) > 1 else ["[CLS]"]
        rows = []
        for text in [sequences] if isinstance(sequences, str) else sequences:
            letters, k = text.upper().replace("U", "T"), content["kmer"]
            words = merged(letters, ranks) if name == "bpe" else [
                letters[i : i + k] for i in range(len(letters) - k + 1)
            ]  # fmt: skip
            tokens = [*head, *words, "[SEP]"]
            rows.append([ids.get(token, ids["[UNK]"]) for token in tokens])
        longest = max(map(len, rows))
        filled = [row + [ids["[PAD]"]] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        device = self.device
        return {
            "input_ids": torch.tensor(filled, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _states(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        self.prove()
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.encoder.states(input_ids, mask.bool())


class TokenEncoderModel(EncoderPreTrainedModel):
    """States of tokens: `model(**model.encode("ACGT…", "bpe")).last_hidden_state`."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """input_ids and attention_mask (B, N) → last_hidden_state (B, N, D)."""
        found = BaseModelOutput(last_hidden_state=self._states(input_ids, attention_mask))  # pyright: ignore[reportArgumentType]
        return found.to_tuple() if return_dict is False else found


class TokenEncoderForMaskedLM(EncoderPreTrainedModel):
    """Logits of the word at every place."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Logits (B, N, V) and, with labels (B, N), the mean loss of those that are not −100."""
        states = self._states(input_ids, attention_mask)
        logits = self.encoder.head(states, self.encoder.words.weight)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        found = MaskedLMOutput(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType]
        return found.to_tuple() if return_dict is False else found
