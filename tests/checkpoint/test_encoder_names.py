"""The encoder's tensors under others' names, and back."""

import pytest
import torch

from spacescale.checkpoint.encoder_names import from_dnabert2, to_dnabert2
from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.model.encoder import Encoder

CONFIG = EncoderConfig(vocab_size=11, dim=8, depth=2, heads=2, ffn_dim=6)
LAYER = {
    "attention.self.Wqkv.weight": (24, 8),
    "attention.self.Wqkv.bias": (24,),
    "attention.output.dense.weight": (8, 8),
    "attention.output.dense.bias": (8,),
    "attention.output.LayerNorm.weight": (8,),
    "attention.output.LayerNorm.bias": (8,),
    "mlp.gated_layers.weight": (12, 8),
    "mlp.wo.weight": (8, 6),
    "mlp.wo.bias": (8,),
    "mlp.layernorm.weight": (8,),
    "mlp.layernorm.bias": (8,),
}
# As MosaicBERT's and DNABERT-2's BertForMaskedLM name them.
THEIRS = {
    "bert.embeddings.word_embeddings.weight": (11, 8),
    "bert.embeddings.token_type_embeddings.weight": (2, 8),
    "bert.embeddings.LayerNorm.weight": (8,),
    "bert.embeddings.LayerNorm.bias": (8,),
    **{f"bert.encoder.layer.{n}.{name}": shape for n in (0, 1) for name, shape in LAYER.items()},
    "cls.predictions.transform.dense.weight": (8, 8),
    "cls.predictions.transform.dense.bias": (8,),
    "cls.predictions.transform.LayerNorm.weight": (8,),
    "cls.predictions.transform.LayerNorm.bias": (8,),
    "cls.predictions.decoder.weight": (11, 8),
    "cls.predictions.decoder.bias": (11,),
}


@pytest.fixture
def weights():
    return Encoder(CONFIG).state_dict()


def test_names_and_shapes_are_theirs(weights):
    theirs = to_dnabert2(weights, CONFIG.depth)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == THEIRS
    tied = theirs["cls.predictions.decoder.weight"]
    assert tied is theirs["bert.embeddings.word_embeddings.weight"]


def test_the_way_back(weights):
    theirs = to_dnabert2(weights, CONFIG.depth)
    ours = from_dnabert2(theirs | {"bert.pooler.dense.weight": torch.ones(8, 8)}, 2, "file")
    assert list(ours) == list(weights)
    assert all(torch.equal(ours[name], weights[name]) for name in ours)


def test_what_does_not_fit_is_named(weights):
    theirs = to_dnabert2(weights, CONFIG.depth)
    with pytest.raises(UserError, match=r"file: unexpected bert\.encoder\.layer\.1\."):
        from_dnabert2(theirs, 1, "file")
    with pytest.raises(UserError, match=r"file: bert\.encoder\.layer\.2\.\S+ is missing"):
        from_dnabert2(theirs, 3, "file")
    with pytest.raises(UserError, match=r"file: bert\.embeddings\.word_embeddings is missing"):
        words = "bert.embeddings.word_embeddings.weight"
        from_dnabert2({k: t for k, t in theirs.items() if k != words}, 2, "file")
    untied = {"cls.predictions.decoder.weight": torch.ones(11, 8)}
    with pytest.raises(UserError, match="is not that of the embeddings; expected tied weights"):
        from_dnabert2(theirs | untied, 2, "file")
