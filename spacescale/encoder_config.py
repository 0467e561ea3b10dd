"""Shape of a token encoder (model/encoder.py); presets.py has the sizes of Genomics-FM."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spacescale.sections import Fraction, Section


class EncoderConfig(Section):
    """Shape of a BERT-like encoder of tokens; defaults are those of Genomics-FM's base model."""

    kind: Literal["encoder"] = "encoder"
    vocab_size: int = Field(default=7266, ge=1, description="tokens of the vocabulary")
    dim: int = Field(default=768, gt=0, description="channels")
    depth: int = Field(default=12, ge=1, description="layers")
    heads: int = Field(default=12, gt=0, description="attention heads")
    ffn_dim: int = Field(
        default=3072, gt=0, description="width of a gated feed-forward, of gate and of value each"
    )
    dropout: Fraction = Field(default=0.1, description="of embeddings and residual branches")
    attn_dropout: Fraction = Field(default=0.0, description="dropout of attention weights")

    @model_validator(mode="after")
    def _check_heads(self) -> EncoderConfig:
        if self.dim % self.heads:
            raise ValueError(f"model.dim={self.dim} must be divisible by heads={self.heads}")
        return self
