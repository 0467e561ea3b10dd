"""From species folders to batches: training in the sampler's order, evaluation in file order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spacescale.dataset.augment import flip
from spacescale.dataset.batch import Batch, Replaced, SpeciesBatch
from spacescale.dataset.manifest import find_species
from spacescale.dataset.negative_targets import refuse_negative_window
from spacescale.dataset.reader import SpeciesData, open_species, reopen, with_tracks
from spacescale.dataset.sampler import Draw, SampleOrder
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.errors import UserError

Window = tuple[np.ndarray, np.ndarray, int]  # codes (L,), targets (N, T), row of the data set
_Opened = TypeVar("_Opened", bound=SpeciesGenome)


def open_datasets(paths: list[Path]) -> dict[str, SpeciesData]:
    """Open species folders, or folders that hold species folders; species name → data.

    Raises UserError for a path that holds none, a species given twice, species without tracks, and
    bin sizes or target lengths that differ between species.
    """
    datasets = _by_name(paths, SpeciesData.open)
    _refuse_mixed_geometries(datasets.values())
    return datasets


def open_genomes(paths: list[Path]) -> dict[str, SpeciesGenome]:
    """Open species folders, with or without tracks, as `open_datasets` does.

    Those that have tracks are SpeciesData.
    """
    genomes = _by_name(paths, open_species)
    _refuse_mixed_geometries(g for g in genomes.values() if isinstance(g, SpeciesData))
    return genomes


def open_mixed(paths: list[Path]) -> dict[str, SpeciesGenome]:
    """Open species folders as `open_genomes` does; UserError where no species has tracks."""
    genomes = open_genomes(paths)
    if not with_tracks(genomes):
        raise UserError(
            f"no species has tracks ({', '.join(genomes)}): profiles need one of "
            "data_prep/shard.py; objective=tokens trains on sequence alone"
        )
    return genomes


def _by_name(paths: list[Path], open_folder: Callable[[Path], _Opened]) -> dict[str, _Opened]:
    found: dict[str, _Opened] = {}
    for folder in (folder for path in paths for folder in find_species(path)):
        data = open_folder(folder)
        if data.name in found:
            raise UserError(
                f"species {data.name!r} is given twice: {found[data.name].path} and {folder}"
            )
        found[data.name] = data
    return found


def _refuse_mixed_geometries(datasets: Iterable[SpeciesData]) -> None:
    geometries = {(d.bin_size, d.target_length): d.path for d in datasets}
    if len(geometries) > 1:
        shown = "; ".join(f"{p}: {n} bins of {b} bp" for (b, n), p in geometries.items())
        raise UserError(f"all species need one bin size and target length, found {shown}")


class Windows(Protocol):
    """What one rank reads in training: micro-batches, addressed by micro-step."""

    order: SampleOrder

    def __getitem__(self, micro_step: int) -> Batch:
        """Batch of one micro-step; raises UserError for what cannot be read."""
        ...

    def place(self, draw: Draw) -> str:
        """Where a draw lies: contig:start-end, 0-based half-open."""
        ...


class TrainingWindows(Dataset):
    """Micro-batches of one rank, addressed by micro-step.

    genomes: what it is given. datasets: of these, the species that have tracks, of which its own
    windows are. replace_damaged: a window that cannot be read is replaced by the species' next
    training window that can be, wherever and whenever it is drawn; the batch says so. Else it
    raises UserError.
    """

    def __init__(
        self,
        genomes: Mapping[str, SpeciesGenome],
        order: SampleOrder,
        rank: int,
        seq_length: int,
        roll_targets_windows: int,
        replace_damaged: bool = False,
    ):
        self.genomes, self.datasets = genomes, with_tracks(genomes)
        self.order, self.rank = order, rank
        self.seq_length, self.roll_targets_windows = seq_length, roll_targets_windows
        self.replace_damaged = replace_damaged
        self.rows = {name: data.rows("train") for name, data in self.datasets.items()}
        self.target_rows = {
            name: roll_within_chromosomes(data, self.rows[name], roll_targets_windows)
            for name, data in self.datasets.items()
        }

    def __reduce__(self) -> tuple:
        """Pickled small, as folders to open: a process is started only once all is sent to it."""
        found = {name: (data.path, data.manifest_hash) for name, data in self.genomes.items()}
        return _reopen, (type(self), found, self.order, self.rank, *self._settings())

    def _settings(self) -> tuple:
        """What follows the rank when such windows are made."""
        return self.seq_length, self.roll_targets_windows, self.replace_damaged

    def __getitem__(self, micro_step: int) -> Batch:
        """Batch of one micro-step: the species of all ranks' windows, in data set order.

        Of a species that only other ranks hold windows of, it has none (B = 0): all ranks compute
        alike on all of these species, so that their gradients arrive in the same order.
        """
        draws = self.order.draws(micro_step, self.rank)
        mine = {name: list(group) for name, group in groupby(draws, key=lambda d: d.species)}
        return {
            name: replace(
                self._read(name, mine.get(name, []), micro_step), on_all_ranks=on_all_ranks
            )
            for name, on_all_ranks in self.order.windows_by_species(micro_step).items()
        }

    def place(self, draw: Draw) -> str:
        """Where the target of a draw lies: contig:start-end, 0-based half-open."""
        return self.datasets[draw.species].place(int(self.target_rows[draw.species][draw.window]))

    def _read(self, species: str, draws: list[Draw], micro_step: int) -> SpeciesBatch:
        windows, replaced = [], []
        for draw in draws:
            read, codes, targets, damaged = self._sound(draw)
            if draw.reverse_complement:
                codes, targets = flip(codes, targets, self.datasets[species].strand_pair)
            windows.append((codes, targets, int(self.rows[species][read])))
            replaced += damaged
        return self._collate(species, windows, replaced)

    def _collate(
        self, species: str, windows: list[Window], replaced: list[Replaced]
    ) -> SpeciesBatch:
        if not windows:
            return self._no_windows(self.datasets.get(species))
        return _collate(windows, tuple(replaced))

    def _sound(self, draw: Draw) -> tuple[int, np.ndarray, np.ndarray, list[Replaced]]:
        """A draw's window, not flipped, or that which is read in its place.

        Returns its position among the species' training windows, codes, targets and what was
        replaced. Raises UserError for a damaged one that is not to be replaced.
        """
        rows, damaged = self.rows[draw.species], []
        try:
            read, (codes, targets) = draw.window, self._codes_and_targets(draw)
        except UserError as error:
            if not self.replace_damaged:
                raise
            read, (codes, targets) = self._next_sound(draw)
            places = int(rows[draw.window]), int(rows[read])
            damaged = [Replaced(draw.species, *places, str(error))]
        row = int(self.target_rows[draw.species][read])
        refuse_negative_window(self.datasets[draw.species], row, targets)
        return read, codes, targets, damaged

    def _next_sound(self, draw: Draw) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        """The first training window after a damaged one, in the data set's order, that is sound."""
        count = len(self.rows[draw.species])
        for further in range(1, count):
            window = (draw.window + further) % count
            try:
                return window, self._codes_and_targets(replace(draw, window=window))
            except UserError:
                continue
        raise UserError(f"{self.datasets[draw.species].path}: no training window can be read")

    def _codes_and_targets(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """What is stored for a draw: codes (L,) uint8 and targets (N, T) float16, not flipped."""
        data = self.datasets[draw.species]
        codes = data.sequence(
            int(self.rows[draw.species][draw.window]), self.seq_length, draw.shift_bp
        )
        return codes, data.targets(int(self.target_rows[draw.species][draw.window]))

    def _no_windows(self, data: SpeciesData | None) -> SpeciesBatch:
        """Of a species with these tracks, or without any."""
        shape = (data.target_length, len(data.tracks)) if data else (0, 0)
        return SpeciesBatch(
            torch.empty(0, self.seq_length, dtype=torch.uint8),
            torch.empty(0, *shape, dtype=torch.float16),
            torch.empty(0, dtype=torch.int64),
        )


def _reopen(
    kind: type[TrainingWindows], found: dict[str, tuple[Path, str]], *others: Any
) -> TrainingWindows:
    """The windows of datasets that were checked when they were opened first: folder and hash."""
    return kind({name: reopen(*folder) for name, folder in found.items()}, *others)


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


def _collate(windows: list[Window], replaced: tuple[Replaced, ...] = ()) -> SpeciesBatch:
    codes, targets, rows = zip(*windows, strict=True)
    return SpeciesBatch(
        torch.from_numpy(np.stack(codes)),
        torch.from_numpy(np.stack(targets)),
        torch.tensor(rows, dtype=torch.int64),
        replaced=replaced,
    )


def training_batches(
    windows: Windows, first: int, stop: int, num_workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Micro-batches `first` … `stop` − 1 in order, read ahead by worker processes.

    The workers are new processes: a fork of this one would inherit its CUDA context and the locks
    that its threads hold at that moment. What one of them raises as UserError is raised here.
    """
    loader = DataLoader(
        _ErrorsAsItems(windows),
        batch_size=None,
        sampler=range(first, stop),  # pyright: ignore[reportArgumentType]
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context="spawn" if num_workers else None,
        # Its own generator: drawing worker seeds from the global one would shift the dropout
        # masks of a resumed run.
        generator=torch.Generator(),
    )
    with _children_ignore_stop_signals() if num_workers else nullcontext():
        return _raise_errors(iter(loader))


class _ErrorsAsItems(Dataset):
    """Hands errors on as they are: DataLoader would make a traceback of a worker's their text."""

    def __init__(self, windows: Windows):
        self.windows = windows

    def __getitem__(self, micro_step: int) -> Batch | UserError:
        try:
            return self.windows[micro_step]
        except UserError as error:
            return error


def _raise_errors(items: Iterator[Batch | UserError]) -> Iterator[Batch]:
    for item in items:
        if isinstance(item, UserError):
            break
        yield item
    else:
        return
    del items  # with it the reader processes end; an error's traceback would keep both
    try:
        raise item
    finally:
        del item


@contextmanager
def _children_ignore_stop_signals() -> Iterator[None]:
    """Processes started here inherit a mask under which Ctrl-C, SIGTERM and SIGUSR1 do not reach
    them: terminals and schedulers send these to all processes of a run, which still reads while
    it saves. Workers end with the process that started them.
    """
    requests = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, requests)
    try:
        resource_tracker.ensure_running()  # else the workers' start begins with its own …
        signal.pthread_sigmask(signal.SIG_BLOCK, requests)  # … which lifts part of the mask
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class BatchesOnDevice(Iterator[Batch]):
    """Batches copied to a device, the next one while the device computes on the present one.

    waited_s: time that this process has waited for batches to be read.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device):
        self.batches, self.device = batches, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.copied: Batch | None = None
        self.waited_s = 0.0

    def copy_next(self) -> None:
        """Begin to copy the next batch, if any, while the device is at work on the present one."""
        start = time.perf_counter()
        batch = None if self.copied else next(self.batches, None)
        self.waited_s += time.perf_counter() - start
        if batch is not None:
            with torch.cuda.stream(self.stream):  # without one, nothing
                self.copied = {name: part.to(self.device) for name, part in batch.items()}

    def __next__(self) -> Batch:
        """The batch that was copied last, ready for the device's current stream."""
        self.copy_next()
        if self.copied is None:
            raise StopIteration
        batch, self.copied = self.copied, None
        if self.stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for part in batch.values():
                part.record_stream(current)
        return batch


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
