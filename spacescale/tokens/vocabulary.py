"""Ids of tokens: those of one vocabulary, or of several under prompts; the file that says so.

Shapes: L bases, T tokens of a sequence, B rows of N ids, V tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np

from spacescale.errors import UserError
from spacescale.files import read_json, write_json
from spacescale.genome import dna
from spacescale.mlm_config import VocabularyName as Name
from spacescale.tokens.bpe import CLS, MASK, PAD, SEP, SPECIALS, UNK, Bpe, bpe_of
from spacescale.tokens.kmers import kmer_numbers, kmer_words

FILE, PUBLISHED_FILE = "vocabulary.json", "tokenizer.json"
FORMAT, FORMAT_VERSION = "spacescale-vocabulary", 1
KMER = 6  # as published
NAMES: tuple[Name, ...] = get_args(Name)
PROMPTS: dict[Name, str] = {"bpe": "[BPE]", "kmer": "[KMER]"}
_SPECIALS_OF_KMERS = (PAD, UNK, CLS, SEP, MASK)  # DNABERT's order


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their ids.

    names: which vocabularies it joins, in the order of NAMES. kmer: k. bpe: None without "bpe".

    The ids of BPE come first and stay what they are; where there are two vocabularies, their
    prompts follow, then the k-mers that BPE lacks: a word of both is one token. k-mers alone have
    the ids of DNABERT.
    """

    names: tuple[Name, ...]
    kmer: int
    bpe: Bpe | None

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The string of each id, V of them."""
        tokens = list(self.bpe.tokens if self.bpe else _SPECIALS_OF_KMERS)
        if len(self.names) > 1:
            tokens += [PROMPTS[name] for name in self.names]
        if "kmer" in self.names:
            known = set(tokens)
            tokens += [word for word in kmer_words(self.kmer) if word not in known]
        return tuple(tokens)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token → id."""
        return {token: number for number, token in enumerate(self.tokens)}

    @property
    def pad_id(self) -> int:
        """Of what fills rows up."""
        return self.ids[PAD]

    @property
    def mask_id(self) -> int:
        """Of what stands for a hidden token."""
        return self.ids[MASK]

    @cached_property
    def sha256(self) -> str:
        """Of all that decides which ids a sequence becomes, in hex: the vocabulary's identity."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.tokens)

    def only(self, names: Sequence[str]) -> Vocabulary:
        """The vocabulary of some of its names, or with the k-mers beside it.

        Raises UserError for names that are none, stand twice, or need a BPE that is not here.
        """
        if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
            raise UserError(
                f"vocabularies {', '.join(names) or 'none'}: expected {' or '.join(NAMES)}, or both"
            )
        if "bpe" in names and self.bpe is None:
            raise UserError("vocabularies bpe: this vocabulary holds k-mers alone")
        chosen = tuple(name for name in NAMES if name in names)
        return replace(self, names=chosen, bpe=self.bpe if "bpe" in names else None)

    # --- sequences ---

    def encode(self, codes: np.ndarray, name: Name) -> np.ndarray:
        """Base codes uint8 (L,) → ids int64 (T,) of one of its vocabularies.

        BPE has an [UNK] for every N, k-mers for each that holds one; of L bases there are L − k + 1
        k-mers.
        """
        assert name in self.names, name
        if name == "kmer":
            return self._ids_of_kmers[kmer_numbers(codes, self.kmer)]
        assert self.bpe is not None
        return np.array(self.bpe.encode(dna.decode(codes)), dtype=np.int64)

    def row(self, ids: np.ndarray, name: Name, max_tokens: int | None = None) -> np.ndarray:
        """[CLS], the prompt if there are several vocabularies, ids (T,) and [SEP]: int64 (N,).

        max_tokens: N at most, 3 or more; what is too long loses its last tokens.
        """
        head = [CLS, PROMPTS[name]] if len(self.names) > 1 else [CLS]
        room = None if max_tokens is None else max_tokens - len(head) - 1
        assert room is None or room >= 0, max_tokens
        return np.array([*(self.ids[h] for h in head), *ids[:room], self.ids[SEP]], dtype=np.int64)

    def pad(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Rows as one array int64 (B, N), N being the longest's length, filled up with [PAD]."""
        padded = np.full((len(rows), max(map(len, rows), default=0)), self.pad_id, dtype=np.int64)
        for place, row in zip(padded, rows, strict=True):
            place[: len(row)] = row
        return padded

    def words(self, name: Name) -> np.ndarray:
        """Ids of the words of bases of one of its vocabularies, int64, ascending: no specials."""
        assert name in self.names, name
        if name == "kmer":
            return np.sort(self._ids_of_kmers[:-1])
        assert self.bpe is not None
        found = [number for number, token in enumerate(self.bpe.tokens) if token not in SPECIALS]
        return np.array(found, dtype=np.int64)

    @cached_property
    def _ids_of_kmers(self) -> np.ndarray:
        """By the numbers of `kmer_numbers`, int64 (4**k + 1,): the last is that of one with N."""
        return np.array([self.ids[word] for word in [*kmer_words(self.kmer), UNK]], dtype=np.int64)

    # --- the file ---

    def write(self, path: Path, made_from: dict[str, Any]) -> None:
        """Write it as JSON. made_from: for people, and not part of its identity."""
        head = {"format": FORMAT, "version": FORMAT_VERSION, "sha256": self.sha256}
        write_json(path, head | self._content() | {"made_from": made_from}, indent=0)

    def _content(self) -> dict[str, Any]:
        return {
            "vocabularies": self.names,
            "kmer": self.kmer,
            "bpe_tokens": len(self.bpe.tokens) if self.bpe else 0,
            "tokens": self.tokens,
            "merges": [" ".join(pair) for pair in self.bpe.merges] if self.bpe else [],
        }


def read_vocabulary(path: Path, names: Sequence[str] | None = None) -> Vocabulary:
    """Read the vocabulary in a file or folder: ours, or the tokenizer.json of a published BPE.

    names: which of its vocabularies are wanted; default: those of the file, and of a published BPE
    it and 6-mers. Raises UserError naming the file and what is wrong with it.
    """
    path = vocabulary_file(path)
    content = read_json(path)
    if "format" in content:
        found = _read_ours(content, path)
        return found if names is None else found.only(names)
    return Vocabulary(NAMES, KMER, bpe_of(content, str(path))).only(
        NAMES if names is None else names
    )


def vocabulary_file(path: Path) -> Path:
    """The file itself, or the one in a folder; UserError where the folder holds none."""
    if not path.is_dir():
        return path
    there = [file for name in (FILE, PUBLISHED_FILE) if (file := path / name).is_file()]
    if not there:
        raise UserError(f"{path} holds no vocabulary: expected {FILE} or {PUBLISHED_FILE}")
    return there[0]


def _read_ours(content: dict[str, Any], path: Path) -> Vocabulary:
    if content["format"] != FORMAT:
        raise UserError(f"{path}: expected a vocabulary, found format={content['format']!r}")
    if content.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has version {content.get('version')}, this spacescale reads {FORMAT_VERSION}"
        )
    try:
        tokens = content["tokens"][: content["bpe_tokens"]]
        merges = [tuple(pair.split(" ")) for pair in content["merges"]]
        bpe = Bpe(tuple(tokens), tuple(merges)) if tokens else None
        found = Vocabulary(tuple(content["vocabularies"]), content["kmer"], bpe)
        sound = found.sha256 == content["sha256"] and list(found.tokens) == content["tokens"]
    except (KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path}: damaged or edited: its content is not that of its sha256")
    return found
