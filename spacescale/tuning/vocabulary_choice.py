"""Which vocabulary suits a task: the one that shares more words with the task's own.

Genomics-FM's rule (supplement A.8): the task's own vocabulary is a BPE learnt from its training
sequences, of binary tasks from the positives alone. The paper leaves open, and is fixed here: the
size, 4,096 with the specials, which do not count as shared; that a pair must occur twice;
sequences with letters other than ACGT are left out; where both share as many, k-mers.

What is shared with k-mers is a count of the task's own words of k bases. What is shared with a BPE
hangs on its first merges, which on other sequences fall otherwise: GUE's core promoters share 588
words with the published BPE, the nine tenths of them without a TATA box 1,168. And fewer sequences
teach shorter words, of which a BPE holds more: of one percent of GUE's core promoters with a TATA
box BPE shares more, of all of them k-mers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spacescale.console import aligned
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.tasks.task import Task
from spacescale.tokens.bpe import SPECIALS, train_bpe
from spacescale.tokens.vocabulary import NAMES, Name, Vocabulary

SIZE = 4096


@dataclass(frozen=True)
class Overlap:
    """What the words of a task share with those of each vocabulary.

    learnt_from: which training sequences. sequences, bp: their number and length. words: the task's
    own. shared: how many of them each vocabulary has.
    """

    task: str
    learnt_from: str
    sequences: int
    bp: int
    words: int
    shared: dict[Name, int]

    @property
    def choice(self) -> Name:
        """The vocabulary to fine-tune with."""
        return "bpe" if self.shared["bpe"] > self.shared["kmer"] else "kmer"


def overlap(task: Task, vocabulary: Vocabulary) -> Overlap:
    """Learn the task's own words and count those that each part of a vocabulary has.

    task: whole, or with a share of its training sequences (`tuning.fractions`). Raises UserError
    for a vocabulary without BPE or k-mers, and a task of which no sequence is left to learn from.
    """
    if vocabulary.names != NAMES:
        raise UserError(
            f"nothing to choose from: the vocabulary holds {', '.join(vocabulary.names)} alone"
        )
    learnt_from, rows = _rows(task)
    sequences = [codes for row in rows if (codes := task.splits["train"].codes[row]).max() < dna.N]
    if not sequences:
        raise UserError(
            f"{task.path}: no sequence of {learnt_from} in train is all of A, C, G, T, by which a "
            f"vocabulary could be chosen, among the {len(task.splits['train']):,} that are there; "
            "fine-tuning takes --vocabulary bpe or kmer"
        )
    own = train_bpe(map(dna.decode, sequences), SIZE)
    words = set(own.tokens).difference(SPECIALS)
    shared: dict[Name, int] = {
        name: sum(vocabulary.tokens[number] in words for number in vocabulary.words(name).tolist())
        for name in NAMES
    }
    bp = sum(map(len, sequences))
    return Overlap(task.name, learnt_from, len(sequences), bp, len(words), shared)


def _rows(task: Task) -> tuple[str, np.ndarray]:
    """Which training sequences the words are learnt from, in words and as rows int64."""
    targets = task.splits["train"].targets
    if task.kind == "classes" and len(task.outputs) == 2:
        return f"class {task.outputs[1]}", np.flatnonzero(targets == 1)
    if task.kind == "labels" and len(task.outputs) == 1:
        return f"label {task.outputs[0]}", np.flatnonzero(targets[:, 0] == 1)
    return "all", np.arange(len(targets))


def shares_line(chosen: Mapping[tuple[float, int], Name]) -> str:
    """In words which vocabulary was chosen for each share, in percent, of each seed."""
    said = []
    for name in NAMES:
        seeds_of: dict[float, list[int]] = {}
        for (fraction, seed), choice in chosen.items():
            if choice == name:
                seeds_of.setdefault(fraction, []).append(seed)
        shares = [
            f"{fraction:g} % (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
            for fraction, seeds in seeds_of.items()
        ]
        said += [f"{name} with {', '.join(shares)}"] if shares else []
    return f"read as the tokens that the sequences of each share choose: {'; '.join(said)}"


def overlap_lines(overlaps: list[Overlap], kmer: int) -> list[str]:
    """A table for people, a line each task."""
    head = ("task", "learnt from", "sequences", "kb", "words", "in BPE", f"in {kmer}-mers", "take")
    rows: list[tuple[str, ...]] = [head]
    for one in overlaps:
        numbers = (one.sequences, one.bp // 1000, one.words, one.shared["bpe"], one.shared["kmer"])
        rows.append((one.task, one.learnt_from, *(f"{n:,}" for n in numbers), one.choice))
    return aligned(rows, left=(0, 1, -1))
