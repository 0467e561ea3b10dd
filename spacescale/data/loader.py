"""From species folders to batches: training in the sampler's order, evaluation in file order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spacescale.data.augment import flip
from spacescale.data.batch import Batch, SpeciesBatch
from spacescale.data.manifest import find_species
from spacescale.data.negative_targets import refuse_negative_window
from spacescale.data.sampler import SampleOrder
from spacescale.data.shard_reader import SpeciesData
from spacescale.errors import UserError


def open_datasets(paths: list[Path]) -> dict[str, SpeciesData]:
    """Open species folders, or folders that hold species folders; species name → data.

    Raises UserError for a path that holds none, a species given twice, and bin sizes or target
    lengths that differ between species.
    """
    datasets: dict[str, SpeciesData] = {}
    for folder in (folder for path in paths for folder in find_species(path)):
        data = SpeciesData.open(folder)
        if data.name in datasets:
            raise UserError(
                f"species {data.name!r} is given twice: {datasets[data.name].path} and {folder}"
            )
        datasets[data.name] = data
    geometries = {(d.bin_size, d.target_length): d.path for d in datasets.values()}
    if len(geometries) > 1:
        shown = "; ".join(f"{p}: {n} bins of {b} bp" for (b, n), p in geometries.items())
        raise UserError(f"all species need one bin size and target length, found {shown}")
    return datasets


class TrainingWindows(Dataset):
    """Micro-batches of one rank, addressed by micro-step."""

    def __init__(
        self,
        datasets: dict[str, SpeciesData],
        order: SampleOrder,
        rank: int,
        seq_length: int,
        roll_targets_windows: int,
    ):
        self.datasets, self.order, self.rank = datasets, order, rank
        self.seq_length = seq_length
        self.rows = {name: data.rows("train") for name, data in datasets.items()}
        self.target_rows = {
            name: roll_within_chromosomes(data, self.rows[name], roll_targets_windows)
            for name, data in datasets.items()
        }

    def __getitem__(self, micro_step: int) -> Batch:
        """Batch of one micro-step, species in data set order."""
        draws = self.order.draws(micro_step, self.rank)
        batch = {}
        for name, group in groupby(draws, key=lambda draw: draw.species):
            data, windows = self.datasets[name], []
            for draw in group:
                row = int(self.rows[name][draw.window])
                codes = data.sequence(row, self.seq_length, draw.shift_bp)
                target_row = int(self.target_rows[name][draw.window])
                targets = data.targets(target_row)
                refuse_negative_window(data, target_row, targets)
                if draw.reverse_complement:
                    codes, targets = flip(codes, targets, data.strand_pair)
                windows.append((codes, targets, row))
            batch[name] = _collate(windows)
        return batch


def roll_within_chromosomes(data: SpeciesData, rows: np.ndarray, by: int) -> np.ndarray:
    """Pair every row with the one `by` places further on its chromosome, wrapping around.

    The control experiment: sequences keep their composition, targets keep their values, and
    nothing links them. `by` = 0 pairs every row with itself. Raises UserError where a chromosome
    has so few windows that rolling changes nothing.
    """
    rolled = rows.copy()
    chroms = np.asarray(data.windows.chrom)[rows]
    for chrom in np.unique(chroms):
        here = np.flatnonzero(chroms == chrom)
        if by and by % len(here) == 0:
            raise UserError(
                f"data.roll_targets_windows={by} maps {chrom}'s {len(here)} windows of "
                f"{data.name} onto themselves"
            )
        rolled[here] = np.roll(rows[here], -by)
    return rolled


def _collate(windows: list[tuple[np.ndarray, np.ndarray, int]]) -> SpeciesBatch:
    codes, targets, rows = zip(*windows, strict=True)
    return SpeciesBatch(
        torch.from_numpy(np.stack(codes)),
        torch.from_numpy(np.stack(targets)),
        torch.tensor(rows, dtype=torch.int64),
    )


def training_batches(
    windows: TrainingWindows, first: int, stop: int, num_workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Micro-batches `first` … `stop` − 1 in order, read ahead by worker processes."""
    return iter(
        DataLoader(
            windows,
            batch_size=None,
            sampler=range(first, stop),  # pyright: ignore[reportArgumentType]
            num_workers=num_workers,
            pin_memory=pin_memory,
            # Its own generator: drawing worker seeds from the global one would shift the dropout
            # masks of a resumed run.
            generator=torch.Generator(),
        )
    )


def evaluation_batches(
    data: SpeciesData, rows: np.ndarray, seq_length: int, batch_size: int
) -> Iterator[SpeciesBatch]:
    """The given rows in order, `batch_size` at a time, neither shifted nor flipped."""
    for start in range(0, len(rows), batch_size):
        yield _collate(
            [
                (data.sequence(int(row), seq_length), data.targets(int(row)), int(row))
                for row in rows[start : start + batch_size]
            ]
        )
