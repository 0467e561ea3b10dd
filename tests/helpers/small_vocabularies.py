"""A BPE small enough to follow by hand, and published ones in miniature."""

import json

from spacescale.tokens.bpe import SPECIALS, Bpe
from spacescale.tokens.vocabulary import NAMES, Vocabulary

MERGES = (("A", "C"), ("G", "T"), ("AC", "AC"), ("ACAC", "GT"), ("T", "T"))
WORDS = ("AC", "GT", "ACAC", "ACACGT", "TT")
BPE = Bpe((*SPECIALS, *"ACGT", *WORDS), MERGES)
UNION = Vocabulary(NAMES, 6, BPE)


def published(**changes) -> dict:
    """What a tokenizer.json of that BPE holds; `changes` are of its model."""
    ids = {token: number for number, token in enumerate(BPE.tokens)}
    model = {"type": "BPE", "unk_token": "[UNK]", "vocab": ids, "fuse_unk": False}
    model |= {"merges": [" ".join(pair) for pair in MERGES], "dropout": None}
    return {
        "version": "1.0",
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "model": model | changes,
    }


def write_published(path, content=None):
    path.write_text(json.dumps(content or published()), encoding="utf-8")
    return path
