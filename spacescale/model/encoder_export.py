"""A folder of an encoder's exported weights."""

from __future__ import annotations

from pathlib import Path

import torch

from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.model.encoder import Encoder
from spacescale.model.encoder_proof import encoder_disproof
from spacescale.model.exports import (
    load_weights,
    read_encoder_export,
    read_tensors,
    read_weights,
)
from spacescale.model.proof_file import PROOF_FILE


def load_encoder(folder: Path) -> Encoder:
    """The model of a folder, in evaluation mode, on the CPU; UserError for a damaged one.

    Where the folder holds a proof, the model must answer its question as it did.
    """
    config = EncoderConfig.model_validate(read_encoder_export(folder)["model"])
    with torch.device("meta"):
        model = Encoder(config)
    load_weights(model, read_weights(folder), str(folder))
    model.eval()
    if (folder / PROOF_FILE).is_file():
        wrong = encoder_disproof(model, read_tensors(folder / PROOF_FILE))
        if wrong:
            raise UserError(
                f"{folder}: these weights do not compute what they did when they were exported: "
                f"{wrong}"
            )
    return model
