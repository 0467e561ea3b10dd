"""Start a run of tokens from an encoder that exists: its words are matched by their letters."""

from __future__ import annotations

from torch import nn

from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.model.encoder import Encoder
from spacescale.predict.trained_encoder import TrainedEncoder
from spacescale.tokens.vocabulary import Vocabulary

SHAPE = ("dim", "depth", "heads", "ffn_dim")
BY_WORD = ("words.weight", "head.bias")  # a row or a number for each


def start_from_encoder(model: nn.Module, vocabulary: Vocabulary, old: TrainedEncoder) -> list[str]:
    """Give a fresh Encoder the weights of a trained one; returns what to tell of it.

    Words of `vocabulary`, prompts and specials among them, that the old one lacks stay as they are
    initialised. Raises UserError where the two differ in shape.
    """
    assert isinstance(model, Encoder)
    for field in SHAPE:
        found, wanted = (getattr(m.config, field) for m in (old.model, model))
        if found != wanted:
            raise UserError(
                f"--init {old.source}: model.{field} is {found}, and {wanted} in this run: only "
                f"models of one shape can start from each other (model.{', '.join(SHAPE)})"
            )
    known = old.vocabulary.ids
    shared = {word: row for word, row in vocabulary.ids.items() if word in known}
    here, there = list(shared.values()), [known[word] for word in shared]
    weights = old.model.state_dict()
    for name, tensor in model.state_dict().items():
        if name in BY_WORD:
            tensor[here] = weights[name][there]
        else:
            tensor.copy_(weights[name])
    new = [word for word in vocabulary.tokens if word not in known]
    gone = [word for word in old.vocabulary.tokens if word not in shared]
    return [
        f"weights of {old.source}",
        f"new, and initialised: {_words(new)}",
        f"left over: {_words(gone)}",
    ]


def _words(words: list[str]) -> str:
    return f"{len(words)} words ({shorten(words)})" if words else "nothing"
