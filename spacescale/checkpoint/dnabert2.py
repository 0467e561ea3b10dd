"""A folder whose tensors and settings have the names that loaders of DNABERT-2 know."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spacescale.checkpoint.convert import write_export
from spacescale.checkpoint.encoder_names import from_dnabert2, to_dnabert2
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.probe import Agreement
from spacescale.checkpoint.weight_files import save_weights
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.files import new_folder, write_json
from spacescale.model.encoder import EPS, INITIAL_STD, SEGMENTS
from spacescale.model.encoder_export import load_encoder
from spacescale.model.exports import check_weights, is_export, read_weights
from spacescale.tokens.bpe import MASK, PAD
from spacescale.tokens.vocabulary import Vocabulary, read_vocabulary

# None that transformers knows: of `bert` its Auto classes make their own BERT, which takes the
# embeddings of this folder and draws its layers afresh.
MODEL_TYPE = "mosaic_bert"
ALIBI_TOKENS = 512  # for which MosaicBERT's code prepares its biases; it makes more when needed


def convert_to_dnabert2(source: Path, out: Path) -> Agreement | None:
    """Write a run (its best checkpoint), a checkpoint or an export of tokens under those names.

    The tied embeddings are stored twice, as some loaders want them. Returns and raises as
    `checkpoint.convert`; of an export there is no agreement.
    """
    with new_folder(out) as folder:
        if is_export(source):
            _write(source, folder)
            return None
        checkpoint = find_best(source)
        if checkpoint is None:
            raise UserError(f"{source}: no run folder, checkpoint or export")
        with TemporaryDirectory(dir=folder) as between:
            agreement = write_export(checkpoint, Path(between))
            _write(Path(between), folder)
        return agreement


def bert_config(config: EncoderConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """Settings of the encoder as MosaicBERT's and DNABERT-2's `config.json` name them."""
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_dim,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attn_dropout,
        "max_position_embeddings": ALIBI_TOKENS,
        "alibi_starting_size": ALIBI_TOKENS,
        "type_vocab_size": SEGMENTS,
        "initializer_range": INITIAL_STD,
        "layer_norm_eps": EPS,
        "pad_token_id": vocabulary.ids[PAD],
        "mask_token_id": vocabulary.ids[MASK],
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def _write(export: Path, folder: Path) -> None:
    model = load_encoder(export)
    ours, depth = model.state_dict(), model.config.depth
    theirs = {name: tensor.clone() for name, tensor in to_dnabert2(ours, depth).items()}
    save_weights(theirs, folder)
    read = from_dnabert2(read_weights(folder), depth, str(folder))
    check_weights(read, ours, str(folder))
    assert all(read[name].equal(tensor) for name, tensor in ours.items()), "not what was written"
    vocabulary = read_vocabulary(export / "vocabulary")
    write_json(folder / "config.json", bert_config(model.config, vocabulary), indent=1)
    shutil.copytree(export / "vocabulary", folder / "vocabulary")
