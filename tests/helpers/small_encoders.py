"""An encoder of tokens of a few layers, as if it had been trained, and as an export."""

from pathlib import Path

import torch
from small_vocabularies import UNION

from spacescale.checkpoint.weight_files import save_weights
from spacescale.encoder_config import EncoderConfig
from spacescale.files import write_json
from spacescale.mlm_config import MlmConfig
from spacescale.model.encoder import Encoder
from spacescale.model.exports import EXPORT_FORMAT, EXPORT_VERSION
from spacescale.tokens.vocabulary import FILE
from spacescale.tuning.encoder_trunk import EncoderTrunk

SHAPE = {"vocab_size": len(UNION), "dim": 16, "depth": 2, "heads": 2, "ffn_dim": 24}


def encoder(dropout=0.0, **changes) -> Encoder:
    """In evaluation mode, with weights large enough to tell tokens and their order apart."""
    torch.manual_seed(0)
    model = Encoder(EncoderConfig(**(SHAPE | {"dropout": dropout} | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def trunk(part="kmer", pool="cls", **changes) -> EncoderTrunk:
    return EncoderTrunk(encoder(**changes), UNION, part, pool)


def write_encoder(folder: Path, **changes) -> Path:
    """As `spacescale convert` exports it."""
    model = encoder(**changes)
    (folder / "vocabulary").mkdir(parents=True)
    UNION.write(folder / "vocabulary" / FILE, {})
    save_weights(model.state_dict(), folder)
    mlm = MlmConfig(vocabulary_sha256=UNION.sha256).model_dump(mode="json", exclude={"vocabulary"})
    trained = {"step": 1, "metrics": {}, "data_manifests": {}, "versions": {}}
    payload = {"format": EXPORT_FORMAT, "format_version": EXPORT_VERSION, "mlm": mlm}
    payload |= {"model": model.config.model_dump(mode="json"), "trained": trained}
    write_json(folder / "config.json", payload)
    return folder
