"""Small made-up files of tasks with a label per sequence."""

import gzip
from pathlib import Path

import numpy as np

from spacescale.genome.dna import encode


def dna(seed: int, length: int = 12) -> str:
    """A random sequence of `length` letters."""
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def write(path: Path, text: str) -> Path:
    """Write a text, compressed where the name ends with .gz, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(rows, header=("sequence", "label"), delimiter=",") -> str:
    return "".join(f"{delimiter.join(map(str, row))}\n" for row in [header, *rows])


def write_splits(folder: Path, ending=".csv", **splits) -> Path:
    """A file {split}{ending} of pairs of sequence and label for each split."""
    for split, rows in splits.items():
        delimiter = "," if ".csv" in ending else "\t"
        write(folder / f"{split}{ending}", table(rows, delimiter=delimiter))
    return folder


def letters(codes) -> str:
    return "".join("ACGTN"[code] for code in codes)


def same_sequences(examples, sequences) -> None:
    assert [letters(codes) for codes in examples.codes] == [
        letters(encode(sequence)) for sequence in sequences
    ]
    assert all(codes.dtype == np.uint8 for codes in examples.codes)
