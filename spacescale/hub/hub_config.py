"""Configuration of a SPACE model as transformers reads it: the `config.json` beside this file."""

from typing import Any

from transformers import PretrainedConfig


class SpaceConfig(PretrainedConfig):
    """The `config.json` of an exported SPACE model.

    model: shape of the network, species with the assay of each track. track_scale: what it
    predicts of each track: "mean", multiples of its training mean; "log1p", log1p of that; "none",
    stored values. tracks: species → names, assays and training means. trained: on what, how long,
    and how well. code_sha256: of modeling_space.py.
    """

    model_type = "spacescale"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        track_scale: str = "mean",
        tracks: dict[str, list[dict[str, Any]]] | None = None,
        trained: dict[str, Any] | None = None,
        code_sha256: str | None = None,
        **others: Any,
    ):
        self.model = model or {}
        self.track_scale = track_scale
        self.tracks = tracks or {}
        self.trained = trained or {}
        self.code_sha256 = code_sha256
        super().__init__(**others)
