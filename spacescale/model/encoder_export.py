"""A folder of an encoder's exported weights."""

from __future__ import annotations

from pathlib import Path

import torch

from spacescale.encoder_config import EncoderConfig
from spacescale.model.encoder import Encoder
from spacescale.model.exports import load_weights, read_encoder_export, read_weights


def load_encoder(folder: Path) -> Encoder:
    """The model of a folder, in evaluation mode, on the CPU; UserError for a damaged one."""
    config = EncoderConfig.model_validate(read_encoder_export(folder)["model"])
    with torch.device("meta"):
        model = Encoder(config)
    load_weights(model, read_weights(folder), str(folder))
    return model.eval()
