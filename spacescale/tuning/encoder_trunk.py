"""An encoder of tokens as a task's trunk: its [CLS], or its words pooled.

Shapes: B sequences, N tokens, F features (the encoder's channels), C outputs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spacescale.model.encoder import Encoder
from spacescale.tokens.bpe import CLS, PAD, SEP
from spacescale.tokens.vocabulary import PROMPTS, Name, Vocabulary
from spacescale.tuning.encoding import Tokens
from spacescale.tuning.settings import Pool
from spacescale.tuning.trunk import Adapted, Trunk, pooled

ADAPTED = ("qkv", "gated", "output")  # linear layers of attention and feed-forward
HEAD_DROPOUT = 0.1  # as BERT's and the released classifier's


class EncoderTrunk(Trunk):
    """Sequences under the prompt of one vocabulary, as in pretraining, with nothing hidden.

    part: which of the vocabulary's. pool: `cls`, the state of the first token, or over the
    words of a sequence.
    """

    name: ClassVar[str] = "encoder"
    unused = ("head.",)  # which says what is hidden

    def __init__(self, encoder: Encoder, vocabulary: Vocabulary, part: Name, pool: Pool = "cls"):
        self.module: Encoder = encoder
        self.vocabulary, self.pool = vocabulary, pool
        self.part: Name = part
        self.width = encoder.config.dim
        frame = (CLS, SEP, PAD, *PROMPTS.values())
        self._frame = torch.tensor([vocabulary.ids[t] for t in frame if t in vocabulary.ids])

    @property
    def facts(self) -> dict[str, Any]:
        """Its shape."""
        return {"model": self.module.config}

    def encoding(self, lengths: Collection[int], live_batchnorm: bool) -> Tokens:
        """The same for all lengths."""
        return Tokens(self.vocabulary, self.part)

    def features(self, rows: Tensor) -> Tensor:
        """Ids (B, N) int64 → (B, F). Where a sequence is too short for a word, that of [CLS]."""
        states = self.module.states(rows, rows != self.vocabulary.pad_id)  # (B, N, F)
        if self.pool == "cls":
            return states[:, 0]
        words = ~torch.isin(rows, self._frame.to(rows.device))
        words[:, 0] |= ~words.any(1)
        return pooled(states, words, self.pool)

    def adapted(self) -> Adapted:
        """Attention and feed-forward of every layer."""
        return Adapted([*ADAPTED], [])

    def head(self, outputs: int) -> nn.Module:
        """Above [CLS] BERT's: a layer and tanh before the last one."""
        if self.pool != "cls":
            return super().head(outputs)
        return nn.Sequential(
            nn.Linear(self.width, self.width),
            nn.Tanh(),
            nn.Dropout(HEAD_DROPOUT),
            nn.Linear(self.width, outputs),
        )
