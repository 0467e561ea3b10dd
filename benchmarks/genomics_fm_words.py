"""What can be said of Genomics-FM's words and masks before anything is trained.

    python benchmarks/genomics_fm_words.py --data gfm/data/yeast --vocabulary tokenizer.json \
        --gue GUE > page.md

Three tables: how long rows are, and how many are cut; which vocabulary each task of GUE shares
more words with; and how often what is hidden can be read off the rest. --vocabulary: a folder of
`data_prep/vocabulary.py`, or the tokenizer.json of the published BPE, to which the figures beside
ours belong.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from spacescale.dataset.genome_windows import GenomeWindows
from spacescale.dataset.loader import open_genomes
from spacescale.dataset.token_windows import mask_generator, window_choice
from spacescale.mlm_config import MlmConfig
from spacescale.tasks.read_task import read_task, task_name
from spacescale.tasks.task import Task
from spacescale.tokens.masking import Masking, draw_spans, hide, masking_of
from spacescale.tokens.vocabulary import NAMES, Vocabulary, read_vocabulary
from spacescale.tuning.vocabulary_choice import overlap

WINDOWS = 600
SPLITS = {"train": ("train",), "dev": ("dev",), "dev+test": ("dev", "test")}
# Task, split, and what others counted with the published BPE: words shared with it and with 6-mers.
# The paper's promoters and its TF human are one figure each, of which files it does not say.
GUE = [
    ("prom/prom_core_all", "train", (686, 1008)),
    ("prom/prom_core_notata", "train", None),
    ("prom/prom_core_tata", "train", None),
    ("prom/prom_300_tata", "train", None),
    ("prom/prom_300_all", "dev", (686, 1008)),
    ("prom/prom_300_all", "dev+test", (686, 1008)),
    ("prom/prom_300_notata", "dev+test", None),
    ("tf/0", "train", (1310, 1036)),
    ("tf/1", "train", (1310, 1036)),
    ("tf/2", "train", (1310, 1036)),
    *((f"EMP/{mark}", "dev+test", None) for mark in ("H3", "H3K4me3", "H3K9ac", "H4")),
]
PROTOCOLS = {
    "spans of 14, drawn once": (14, True),
    "spans of 14, drawn per token": (14, False),
    "single words at 0.15": (1, False),
}


def length_lines(windows: GenomeWindows, vocabulary: Vocabulary, mlm: MlmConfig) -> list[str]:
    """How many tokens windows of the longest length are, and how many are cut at `max_tokens`."""
    sizes = [
        len(vocabulary.row(vocabulary.encode(windows[n].codes, "bpe"), "bpe"))
        for n in range(min(WINDOWS, len(windows)))
    ]
    words = 4**vocabulary.kmer
    shared = len(vocabulary.words("bpe")) + words - len(_words(vocabulary))
    return [
        "| tokens | 6-mers shared | windows | bp | tokens a window | longest | cut |",
        "|---|---|---|---|---|---|---|",
        f"| {len(vocabulary):,} | {shared:,} | {len(sizes)} | {mlm.bpe_bp:,} | "
        f"{np.mean(sizes):.0f} | {max(sizes)} | {sum(s > mlm.max_tokens for s in sizes)} |",
    ]


def _words(vocabulary: Vocabulary) -> np.ndarray:
    return np.union1d(*(vocabulary.words(name) for name in NAMES))


def overlap_lines(gue: Path, vocabulary: Vocabulary) -> list[str]:
    """What each task of GUE that is there shares with either part, beside what others counted."""
    lines = [
        "| task | learnt from | sequences | in BPE | in 6-mers | take | the paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, split, paper in GUE:
        if not (gue / name).is_dir():
            continue
        found = overlap(_learnable(gue / name, SPLITS[split]), vocabulary)
        other = "–" if paper is None else f"{paper[0]:,}, {paper[1]:,}"
        lines.append(
            f"| {name} | {split}, {found.learnt_from} | {found.sequences:,} | "
            f"{found.shared['bpe']:,} | {found.shared['kmer']:,} | {found.choice} | {other} |"
        )
    return lines


def _learnable(folder: Path, splits: tuple[str, ...]) -> Task:
    """A task whose train is these splits: to count words by, and for nothing else."""
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / f"{task_name(folder)}.csv"
        with table.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sequence", "label", "split"])
            for split in splits:
                with (folder / f"{split}.csv").open(newline="") as source:
                    read = [(row["sequence"], row["label"]) for row in csv.DictReader(source)]
                rows.writerows((*row, "train") for row in read)
            for split in ("valid", "test"):  # a task needs both, or they are cut off train
                rows.writerows((*row, split) for row in read)
        return read_task(table)


def leak_lines(windows: GenomeWindows, vocabulary: Vocabulary, mlm: MlmConfig) -> list[str]:
    """What no visible 6-mer spells, and how much of it the input tells all the same.

    A row is made twice with the same draws, the second time with another base in the place of one
    that is hidden under [MASK]. Where the inputs differ the model is told what it is asked.
    """
    lines = [
        "| masks | words hidden | spans | bases hidden a span | unknown bases a word | told |",
        "|---|---|---|---|---|---|",
    ]
    only_kmers = vocabulary.only(["kmer"])
    for name, (width, once) in PROTOCOLS.items():
        rate = 0.15 / 6 if width > 1 else 0.15
        masking = replace(masking_of(mlm, "kmer"), centre_rate=rate, span=width)
        rows = [
            _leak(windows[n].codes, n, only_kmers, masking, once)
            for n in range(min(WINDOWS, len(windows)))
        ]
        share, spans, hidden, unknown, words, told, tried = np.sum(rows, axis=0).tolist()
        lines.append(
            f"| {name} | {100 * words / share:.1f} % | {spans:,} | {hidden / spans:.2f} | "
            f"{unknown / words:.2f} | {f'{told:,} of {tried:,}' if tried else '–'} |"
        )
    return lines


def _leak(
    codes: np.ndarray, n: int, vocabulary: Vocabulary, masking: Masking, once: bool
) -> tuple[int, ...]:
    """Of the n-th window: 6-mers, spans, bases hidden, bases unknown of the words that are asked
    for, these words, and of hidden bases under a [MASK] how many change the input, and how many
    were changed.
    """
    words, each = vocabulary.words("kmer"), np.ones(vocabulary.kmer)

    def masked(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        random = mask_generator(0, 0, "leaks", "kmer", n)
        row = vocabulary.encode(codes, "kmer")
        first = draw_spans(np.isin(row, words), masking, random)
        fates = first if once else np.where(first >= 0, np.arange(len(row)), -1)
        return first, hide(row, fates, words, vocabulary.mask_id, masking, random)[0]

    first, given = masked(codes)
    asked = first >= 0
    unread = np.convolve(~asked, each) == 0  # bases that are under hidden 6-mers alone
    unknown = int(np.convolve(unread, each, "valid")[asked].sum())
    places = np.flatnonzero(unread & (np.convolve(given == vocabulary.mask_id, each) > 0))
    told = 0
    for place in places:
        other = codes.copy()
        other[place] = (other[place] + 1) % 4
        told += not np.array_equal(masked(other)[1], given)
    spans = len(np.unique(first[asked]))
    return len(first), spans, int(unread.sum()), unknown, int(asked.sum()), told, len(places)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a species folder")
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--gue", type=Path, help="folder of GUE: EMP, prom, tf")
    args = parser.parse_args()
    vocabulary, mlm = read_vocabulary(args.vocabulary), MlmConfig()
    (genome,) = open_genomes([args.data]).values()
    streams = {
        name: GenomeWindows(
            genome, "train", replace(window_choice(mlm, name, 0, True), longest_share=1.0)
        )
        for name in NAMES
    }
    print("\n".join(length_lines(streams["bpe"], vocabulary, mlm)), flush=True)
    if args.gue:
        print("\n" + "\n".join(overlap_lines(args.gue, vocabulary)), flush=True)
    print("\n" + "\n".join(leak_lines(streams["kmer"], vocabulary, mlm)))


if __name__ == "__main__":
    main()
