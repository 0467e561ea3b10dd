"""Features of a task's sequences as BEND reads them (Marin et al., ICLR 2024).

A folder of SPLIT_CHUNK.tar.gz, as BEND's precompute_embeddings.py makes them, with two members for
each sequence n of a split: sample_n.input.npy, float32 (1, L, C), each position's features at every
base of it, and sample_n.output.npy, its labels.

Shapes: N sequences, B of a batch, L bp, P positions, C channels.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.files import new_files
from spacescale.predict.predictor import Predictor
from spacescale.tasks.task import Examples, Kind, Task

CHUNK = 50_000  # sequences of a file


def export_bend(
    predictor: Predictor, task: Task, out: Path, layer: str = "pointwise", chunk: int = CHUNK
) -> list[Path]:
    """Write all splits of a task into a folder; returns the files.

    Labels are int64 of 0 and 1 (labels,), of classes the number (1,), values float32 (values,).
    Raises UserError for labels that are not known, which BEND has no sign for.
    """
    paths = []
    labels_of = {split: _labels(task.kind, one) for split, one in task.splits.items()}
    for split, examples in task.splits.items():
        labels = labels_of[split]
        for number, first in enumerate(range(0, len(examples), chunk)):
            path = out / f"{split}_{number}.tar.gz"
            rows = range(first, min(first + chunk, len(examples)))
            with new_files(path) as (part,), tarfile.open(part, "w:gz", compresslevel=4) as tar:
                bar = tqdm(rows, unit="sequence", desc=path.name, disable=None, leave=False)
                for row, features in _by_base(predictor, examples, rows, layer):
                    _add(tar, f"sample_{row}.input.npy", features[None])
                    _add(tar, f"sample_{row}.output.npy", labels[row])
                    bar.update()
                bar.close()
            paths.append(path)
    return paths


def _labels(kind: Kind, examples: Examples) -> np.ndarray:
    targets = examples.targets
    if kind == "classes":
        return targets[:, None]
    unknown = np.flatnonzero(np.isnan(targets).any(axis=1))
    if unknown.size:
        name = examples.names[int(unknown[0])]
        raise UserError(f"{name}: a label that is not known; BEND expects all of them")
    return targets.astype(np.int64) if kind == "labels" else targets


def _by_base(
    predictor: Predictor, examples: Examples, rows: range, layer: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Rows and their features at every base, float32 (L, C), in order."""
    one_bin = np.zeros(predictor.bin_size, dtype=np.uint8)
    width = predictor.bin_size // len(predictor.embed(one_bin, layer))
    for length, alike in groupby(rows, key=lambda row: len(examples.codes[row])):
        same = list(alike)
        for first in range(0, len(same), predictor.batch_size):
            batch = same[first : first + predictor.batch_size]
            found = predictor.embed(np.stack([examples.codes[row] for row in batch]), layer)
            for row, features in zip(batch, found, strict=True):
                yield row, features.repeat(width, axis=0)[:length]


def _add(tar: tarfile.TarFile, name: str, array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    member = tarfile.TarInfo(name)
    member.size = file.tell()
    file.seek(0)
    tar.addfile(member, file)
