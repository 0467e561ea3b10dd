"""Byte pair encoding of bases, and the one door to Hugging Face's `tokenizers`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spacescale.errors import UserError

UNK, CLS, SEP, PAD, MASK = SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
BASES = "ACGT"
MIN_FREQUENCY = 2  # of a pair that becomes a token
_PARALLELISM = "TOKENIZERS_PARALLELISM"
# Settings of a tokenizer.json under which it encodes in another way than `Bpe` does.
_MODEL_SETTINGS = (
    "dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
    "ignore_merges",
)  # fmt: skip
# Those that split at blanks, of which bases have none.
_PRE_TOKENIZERS = (None, {"type": "Whitespace"}, {"type": "WhitespaceSplit"})


@dataclass(frozen=True)
class Bpe:
    """A byte pair encoding.

    tokens: the string of each id: the five SPECIALS, and words of A, C, G and T, those four among
    them. merges: pairs of words that become one, the earlier first.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    def encode(self, letters: str) -> list[int]:
        """Ids of the tokens of a sequence; each letter that is not A, C, G or T is an [UNK]."""
        return self._tokenizer.encode(letters, add_special_tokens=False).ids

    @cached_property
    def _tokenizer(self):
        with _tokens_extra():
            from tokenizers import Tokenizer, models
        ids = {token: number for number, token in enumerate(self.tokens)}
        return Tokenizer(models.BPE(vocab=ids, merges=list(self.merges), unk_token=UNK))


def train_bpe(words: Iterable[str], size: int, show_progress: bool = False) -> Bpe:
    """Learn an encoding of `size` tokens, SPECIALS included, from words of A, C, G and T.

    Fewer, where no other pair occurs MIN_FREQUENCY times. The same words give the same encoding, in
    whatever order.
    """
    with _tokens_extra():
        from tokenizers import Tokenizer, models, trainers
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIALS),
        initial_alphabet=list(BASES),
        show_progress=show_progress,
    )
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    with _one_thread():
        tokenizer.train_from_iterator(words, trainer)
    return bpe_of(json.loads(tokenizer.to_str()), "the trained tokenizer")


def bpe_of(tokenizer: dict[str, Any], source: str) -> Bpe:
    """The encoding that a tokenizer.json of Hugging Face holds, as DNABERT-2 and others publish it.

    Raises UserError naming `source` where it is no BPE of A, C, G and T with the five SPECIALS, or
    does more to a sequence than merging.
    """
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise UserError(f"{source}: expected a tokenizer whose model is BPE")
    if changed := [name for name in _MODEL_SETTINGS if model.get(name)]:
        raise UserError(f"{source}: model.{changed[0]}={model[changed[0]]!r}: not supported")
    if (unknown := model.get("unk_token")) != UNK:
        raise UserError(f"{source}: model.unk_token={unknown!r}: expected {UNK!r}")
    if tokenizer.get("normalizer") or tokenizer.get("pre_tokenizer") not in _PRE_TOKENIZERS:
        raise UserError(f"{source}: expected no normalizer, and no pre_tokenizer but Whitespace")
    ids, merges = model.get("vocab"), model.get("merges")
    if not isinstance(ids, dict) or _integers(ids.values()) != list(range(len(ids))):
        raise UserError(f"{source}: model.vocab: expected the ids 0 … N−1, each once")
    if not isinstance(merges, list):
        raise UserError(f"{source}: model.merges: expected a list")
    pairs = tuple(_pair(merge, source) for merge in merges)
    found = Bpe(tuple(sorted(ids, key=ids.__getitem__)), pairs)
    _require_sound(found, source)
    return found


def _integers(values: Iterable[Any]) -> list[int]:
    return sorted(value for value in values if type(value) is int)


def _pair(merge: Any, source: str) -> tuple[str, str]:
    """The two words of a merge, which older files write as one string."""
    match merge.split(" ") if isinstance(merge, str) else merge:
        case [str(first), str(second)]:
            return first, second
    raise UserError(f"{source}: merge {merge!r}: expected two words")


def _require_sound(bpe: Bpe, source: str) -> None:
    """Raise UserError naming `source` and the first token or merge that does not belong."""
    known = set(bpe.tokens)
    if missing := [token for token in (*SPECIALS, *BASES) if token not in known]:
        raise UserError(f"{source}: the token {missing[0]!r} is missing")
    for token in bpe.tokens:
        if token not in SPECIALS and (not token or token.strip(BASES)):
            raise UserError(f"{source}: token {token!r}: expected a word of {BASES}")
    for pair in bpe.merges:
        if not known.issuperset((*pair, "".join(pair))):
            raise UserError(f"{source}: merge {' '.join(pair)!r}: its words are no tokens")


@contextmanager
def _tokens_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"byte pair encoding needs {error.name}: pip install 'spacescale[tokens]' ({error})"
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """So that nothing depends on threads, and reader processes may be started afterwards."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before
