"""The HDF5 files of Tang and Koo (2024), Zenodo 11583224: all splits of a task in one file.

SPLIT is train, valid or test; sequences one-hot in the order A C G T, N as zeros or quarters:

- lentiMPRA: onehot_SPLIT (N, L, 4) or seq_SPLIT (N,) of letters, and y_SPLIT (N, 1).
- ChIP-seq: x_SPLIT (N, L, 4), y_SPLIT of 0 and 1. eCLIP: X_SPLIT (N, 4 or more, L), Y_SPLIT.
- INSERT-seq: X_SPLIT, Y_SPLIT of RNA counts, of which the first column is taken, as log(1 + y).
- splicing: x_SPLIT (N, 800, 4), or xl_SPLIT and xr_SPLIT (N, 400, 4), and y_SPLIT (N, tissues, 2):
  log-odds of inclusion less their mean over tissues, NaN where unknown, and that mean.

Of all but splicing coords_SPLIT (N,) may say where sequences lie: CONTIG:START-END, 0-based, with +
or - behind.

Shapes: N sequences, L bp, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.dna import N
from spacescale.tasks.duplicates import either_strand
from spacescale.tasks.hdf5_files import open_hdf5
from spacescale.tasks.loci import named_loci
from spacescale.tasks.rows import Column, Found, Rows, by_split, encode_all, require_splits
from spacescale.tasks.split_files import adapter_notes, adapters
from spacescale.tasks.task import Assay, Locus

HDF5 = (".h5", ".hdf5")
AT_ONCE = 4096  # sequences
FEWEST_TISSUES, LEAST_CHANGE = 10, 0.2  # of exons that the paper tests on
_SEQUENCES = (("onehot",), ("seq",), ("x",), ("X",), ("xl", "xr"))  # names before _SPLIT
_WORDS = ("train", "valid", "test")


def read_archive(path: Path) -> Found:
    """Read one file. Sequences that are the same on either strand, adapters apart, are a group.

    Raises UserError naming file, dataset and shape for what does not fit.
    """
    with open_hdf5(path) as file:
        names = [names for names in _SEQUENCES if f"{names[0]}_train" in file]
        if not names:
            there = ", ".join(file) or "none"
            raise UserError(
                f"{path}: no dataset onehot_train, seq_train, x_train, X_train or xl_train; it has "
                f"{there}"
            )
        chosen = names[0]
        words = by_split(path, (w for w in _WORDS if f"{chosen[0]}_{w}" in file))
        require_splits(path, words, "its datasets")
        codes = {split: _joined(path, file, chosen, word) for split, word in words.items()}
        numbers = {split: _numbers(path, file, word, codes[split]) for split, word in words.items()}
        loci = {split: _loci(path, file, word, codes[split]) for split, word in words.items()}
    notes, assay = [], _assay_of(chosen, numbers["train"])
    if len(chosen) > 1 or assay == "splicing":
        notes.append("acceptor and donor side of an exon stand behind each other, with no gap")
    splits, more = _rows(path, codes, numbers, loci, assay)
    adapters_left = adapter_notes([c for of in codes.values() for c in of])
    return Found(splits, notes + more + adapters_left, assay)


def _assay_of(names: tuple[str, ...], targets: np.ndarray) -> Assay:
    """What was measured, by the names of datasets and the targets of train, (N, C) or (N, C, 2)."""
    if targets.ndim == 3:
        return "splicing"
    if np.isin(targets[~np.isnan(targets)], (0, 1)).all():
        return "chip"
    return "insertseq" if names == ("X",) else "lentimpra"


def _joined(path: Path, file: Any, names: tuple[str, ...], word: str) -> list[np.ndarray]:
    """Sequences of a split, codes uint8 (L,); of several datasets one behind the other."""
    parts = [list(_sequences(path, file, f"{name}_{word}")) for name in names]
    if len({len(part) for part in parts}) > 1:
        counts = " and ".join(str(len(part)) for part in parts)
        raise UserError(f"{path}: {' and '.join(names)} of {word} hold {counts} sequences")
    return [np.concatenate(row) for row in zip(*parts, strict=True)]


def _sequences(path: Path, file: Any, name: str) -> Iterator[np.ndarray]:
    dataset = _dataset(path, file, name)
    if dataset.dtype.kind in "OS":
        letters = _words(dataset)
        yield from encode_all(letters, [f"{path}: {name} row {i + 1}" for i in range(len(letters))])
        return
    shape = dataset.shape
    if len(shape) != 3 or not (shape[2] == N or shape[1] >= N):
        raise UserError(
            f"{path}: {name} is {dataset.dtype} {shape}, expected (N, L, 4), (N, 4, L), or strings"
        )
    for first in range(0, shape[0], AT_ONCE):
        bases = dataset[first : first + AT_ONCE]
        bases = bases if shape[2] == N else bases[:, :N].swapaxes(1, 2)  # (n, L, 4)
        codes = np.where(bases.max(2) > bases.sum(2) / 2, bases.argmax(2), N)
        yield from codes.astype(np.uint8)


def _words(dataset: Any) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in dataset[()]]


def _loci(path: Path, file: Any, word: str, codes: list[np.ndarray]) -> list[Locus]:
    """Where the sequences of a split lie, [] where no dataset says it."""
    if (name := f"coords_{word}") not in file:
        return []
    dataset = _dataset(path, file, name)
    if dataset.shape != (len(codes),) or dataset.dtype.kind not in "OS":
        raise UserError(
            f"{path}: {name} is {dataset.dtype} {dataset.shape}, expected ({len(codes)},) words "
            "CONTIG:START-END"
        )
    return named_loci(_words(dataset))


def _numbers(path: Path, file: Any, word: str, codes: list[np.ndarray]) -> np.ndarray:
    """Targets of a split as they are kept, float64 (N, C) or (N, C, 2)."""
    name = next((n for n in (f"y_{word}", f"Y_{word}") if n in file), f"y_{word}")
    dataset = _dataset(path, file, name)
    shape = dataset.shape
    fits = len(shape) in (1, 2) or (len(shape) == 3 and shape[2] == 2)
    if dataset.dtype.kind not in "biuf" or not fits or shape[0] != len(codes):
        raise UserError(
            f"{path}: {name} is {dataset.dtype} {shape}, expected numbers ({len(codes)},), "
            f"({len(codes)}, C), or of splicing ({len(codes)}, C, 2)"
        )
    found = dataset[()].astype(np.float64)
    return found[:, None] if found.ndim == 1 else found


def _dataset(path: Path, file: Any, name: str) -> Any:
    dataset = file.get(name)
    if not hasattr(dataset, "dtype"):
        raise UserError(f"{path}: no dataset {name}; it has {', '.join(file)}")
    return dataset


def _rows(
    path: Path,
    codes: dict[str, list[np.ndarray]],
    numbers: dict[str, np.ndarray],
    loci: dict[str, list[Locus]],
    assay: Assay,
) -> tuple[dict[str, Rows], list[str]]:
    """Rows by split, and notes."""
    notes = []
    if assay == "insertseq":
        notes.append("the target is log(1 + y) of the first column of Y, as of INSERT-seq")
    groups = _groups(codes)
    found = {}
    for split, values in numbers.items():
        places = [f"{path}: {split} row {row + 1}" for row in range(len(values))]
        offsets = None
        if assay == "splicing":
            values, offsets = values[..., 0], values[..., 1].astype(np.float32)
        elif assay == "insertseq":
            values = np.log1p(values[:, :1])
        elif assay == "chip" and not np.isnan(values).any():
            values = values.astype(np.int64)
        columns = _columns(values, "label_" if assay == "chip" else "value_")
        names = [place.partition(": ")[2] for place in places]
        found[split] = Rows(
            codes[split], columns, places, names, groups[split], offsets, loci[split]
        )
    if assay == "splicing":
        tested = _changing(numbers["test"])
        notes.append(
            f"tested on {len(tested)} of {len(numbers['test'])} exons, as in the paper: known in "
            f"{FEWEST_TISSUES} tissues or more, and in one at least {LEAST_CHANGE} from their mean"
        )
        if not tested:
            raise UserError(f"{path}: {notes[-1]}")
        found["test"] = found["test"].take(tested)
    return found, notes


def _columns(values: np.ndarray, prefix: str) -> dict[str, Column]:
    if values.shape[1] == 1:
        return {"value" if prefix == "value_" else "label_bound": values[:, 0]}
    return {f"{prefix}{number + 1}": column for number, column in enumerate(values.T)}


def _groups(codes: dict[str, list[np.ndarray]]) -> dict[str, list[str]]:
    """A word for each sequence, the same for its reverse complement between the same adapters."""
    starts, ends = adapters([one for of in codes.values() for one in of])
    number_of: dict[bytes, int] = {}
    return {
        split: [
            str(number_of.setdefault(either_strand(one[starts.size : len(one) - ends.size]),
                                     len(number_of)))
            for one in of
        ]
        for split, of in codes.items()
    }  # fmt: skip


def _changing(values: np.ndarray) -> list[int]:
    """Rows of exons whose inclusion is known and differs between tissues; (N, C, 2)."""
    shares = 1 / (1 + np.exp(-values.sum(2)))
    change = np.abs(shares - 1 / (1 + np.exp(-values[..., 1])))
    known = ~np.isnan(change)
    enough = (known.sum(1) >= FEWEST_TISSUES) & (np.where(known, change, 0).max(1) >= LEAST_CHANGE)
    return np.flatnonzero(enough).tolist()
