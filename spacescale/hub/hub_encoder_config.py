"""Configuration of an encoder of tokens as transformers reads it: its `config.json`."""

from typing import Any

from transformers import PretrainedConfig


class TokenEncoderConfig(PretrainedConfig):
    """The `config.json` of an exported encoder.

    model: shape of the network. mlm: which vocabularies it reads, how they were hidden in training,
    and the identity of `vocabulary/vocabulary.json`. trained: on what, how long, and how well.
    code_sha256: of modeling_encoder.py.
    """

    model_type = "spacescale-encoder"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        mlm: dict[str, Any] | None = None,
        trained: dict[str, Any] | None = None,
        code_sha256: str | None = None,
        **others: Any,
    ):
        self.model = model or {}
        self.mlm = mlm or {}
        self.trained = trained or {}
        self.code_sha256 = code_sha256
        super().__init__(**others)
