"""Encoders that begin with another's weights: words are found by their letters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_vocabularies import UNION

from spacescale.encoder_config import EncoderConfig
from spacescale.errors import UserError
from spacescale.mlm_config import MlmConfig
from spacescale.model.encoder import Encoder
from spacescale.predict.trained_encoder import TrainedEncoder
from spacescale.tokens.vocabulary import Vocabulary
from spacescale.train.initial_encoder import start_from_encoder

SHAPE = {"dim": 12, "depth": 2, "heads": 2, "ffn_dim": 16, "dropout": 0.0}
KMERS = UNION.only(["kmer"])


def encoder_of(vocabulary: Vocabulary, seed: int, **changes) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(EncoderConfig(**SHAPE | {"vocab_size": len(vocabulary)} | changes)).eval()


def trained(vocabulary: Vocabulary, **changes) -> TrainedEncoder:
    """An encoder that differs from a fresh one in every weight."""
    model = encoder_of(vocabulary, 1, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.rand_like(parameter)
    return TrainedEncoder(model, Path("old"), MlmConfig(), vocabulary, {}, {}, [], None)


def test_the_same_words_give_the_same_encoder():
    old, model = trained(UNION), encoder_of(UNION, 2)
    lines = start_from_encoder(model, UNION, old)
    assert lines == ["weights of old", "new, and initialised: nothing", "left over: nothing"]
    for name, tensor in old.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_words_of_another_vocabulary_are_found_by_their_letters():
    old, model, fresh = trained(KMERS), encoder_of(UNION, 2), encoder_of(UNION, 2)
    lines = start_from_encoder(model, UNION, old)
    of_old = [word for word in UNION.tokens if word in KMERS.ids]
    assert 4**KMERS.kmer < len(of_old) < len(UNION)
    for word, row in UNION.ids.items():
        source = old.model.words.weight[KMERS.ids[word]] if word in KMERS.ids else None
        expected = fresh.words.weight[row] if source is None else source
        assert torch.equal(model.words.weight[row], expected), word
        biases = old.model.head.bias[KMERS.ids[word]] if word in KMERS.ids else fresh.head.bias[row]
        assert torch.equal(model.head.bias[row], biases), word
    assert f"{len(UNION) - len(of_old)} words" in lines[1]
    assert lines[2] == "left over: nothing"


def test_words_that_are_no_more_are_named():
    lines = start_from_encoder(encoder_of(KMERS, 2), KMERS, trained(UNION))
    assert lines[1] == "new, and initialised: nothing"
    gone = len(UNION.tokens) - len(set(UNION.tokens) & KMERS.ids.keys())
    assert lines[2].startswith(f"left over: {gone} words (")


@pytest.mark.parametrize(("field", "value"), [("depth", 1), ("heads", 3), ("ffn_dim", 8)])
def test_another_shape_is_refused(field, value):
    old = replace(trained(UNION, **{field: value}), source=Path("weights"))
    model = encoder_of(UNION, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = rf"--init weights: model\.{field} is {value}, and {SHAPE[field]} in this run"
    with pytest.raises(UserError, match=expected):
        start_from_encoder(model, UNION, old)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
