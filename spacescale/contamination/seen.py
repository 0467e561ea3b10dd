"""Which windows weights have seen in training: the sample order is a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import find_best
from spacescale.checkpoint.identity import digest_of
from spacescale.config import Config
from spacescale.contamination.gaps import Gaps, Reading, find_gaps
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.dataset.schema import Contig
from spacescale.errors import UserError
from spacescale.genome.stretches import Stretches
from spacescale.model.exports import is_export, read_export

TRAIN, VALID = 0, 1  # kinds of stretches
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Training:
    """What weights tell of their training.

    step: optimiser steps, None where they do not tell. readings: what they were trained on, then
    what the weights were that they began with, and so on. all_readings: whether these are all.
    config: of the run, None where the order of its windows is not known; then any training window
    may have been seen. layout: processes, micro-batch and accumulation. digest: see
    `digest_of_weights`, None where not known, or of another step.
    """

    source: Path
    step: int | None
    readings: Sequence[Reading]
    all_readings: bool
    config: Config | None = None
    layout: Mapping[str, int] = field(default_factory=dict)
    digest: str | None = None

    @property
    def name(self) -> str:
        """The checkpoint with its run, or the folder of an export; and `--steps`."""
        folder = self.source.absolute()
        in_run = folder.parent == layout.checkpoints_folder(folder.parent.parent)
        name = f"{folder.parent.parent.name}/{folder.name}" if in_run else folder.name
        of_another = in_run and self.step not in (None, layout.step_of(folder))
        return f"{name}, after {self.step:,} steps" if of_another else name

    @property
    def in_order(self) -> list[str]:
        """Species whose windows it read in an order that is known.

        Those that it kept without data come first in what it tells.
        """
        if self.config is None:
            return []
        return list(self.readings[0].manifests)[-len(self.config.data.paths) :]

    @property
    def windows_read(self) -> int | None:
        """How many windows all processes together read; None where it is not known."""
        if self.config is None or self.step is None:
            return None
        lay = self.layout
        return (
            self.step
            * lay["world_size"]
            * lay["micro_batch_size"]
            * lay["gradient_accumulation_steps"]
        )


def read_training(path: Path, steps: int | None = None) -> Training:
    """Read what a run (its best checkpoint), a checkpoint or an export tells; no weights are read.

    steps: look at so many steps of the run instead. Raises UserError where there is none of them,
    or `steps` is given and the order of windows is not known.
    """
    if is_export(path):
        payload = read_export(path)
        trained = payload["trained"]
        _require_own_windows(path, trained.get("reads_anywhere", False))
        readings = _readings(path, payload["model"]["seq_length"], trained)
        training = Training(path, trained["step"], *readings, digest=digest_of(trained))
    else:
        training = _of_checkpoint(path, steps)
    if steps is not None and training.config is None:
        raise UserError(
            f"--steps {steps}: {training.source} does not tell in which order windows were read; "
            "give a run folder or checkpoint"
        )
    return training


def _of_checkpoint(path: Path, steps: int | None) -> Training:
    checkpoint = find_best(path)
    if checkpoint is None:
        raise UserError(f"{path}: neither a run folder, a checkpoint nor an export")
    state = layout.read_state(checkpoint)
    config = layout.read_config(checkpoint, state)
    _require_own_windows(checkpoint, config.reads_anywhere)
    same_order = state["format_version"] == layout.VERSION  # earlier ones read in another
    return Training(
        checkpoint,
        state["step"] if steps is None else steps,
        *_readings(checkpoint, config.space.seq_length, state),
        config if same_order else None,
        state["layout"],
        digest_of(state) if steps in (None, state["step"]) else None,
    )


def _readings(
    source: Path, seq_length: int, trained: Mapping[str, Any]
) -> tuple[list[Reading], bool]:
    """What weights were trained on, and those that they began with; and whether this is all."""
    splits = layout.data_splits(trained)
    readings = [Reading(str(source), seq_length, trained["data_manifests"], splits)]
    for began in layout.beginnings(trained):
        name = began["path"]
        _require_own_windows(f"{source}, which began with {name}", began["reads_anywhere"])
        kept = began["data_manifests"], began["data_splits"]
        readings.append(Reading(name, began["seq_length"] or seq_length, *kept))
        trained = began
    return readings, "began_with" in trained


def _require_own_windows(source: Path | str, reads_anywhere: bool) -> None:
    """UserError for training that read more than the windows of its data sets."""
    if reads_anywhere:
        raise UserError(
            f"{source}: was also trained on bases anywhere in the sequence that may train "
            "(bases.untracked, or species without tracks), where nothing is searched yet"
        )


@dataclass(frozen=True)
class Stretch:
    """Bases of a stored contig that were read; start and end in its coordinates, half-open."""

    data: SpeciesData
    contig: Contig
    start: int
    end: int
    kind: int


@dataclass(frozen=True)
class SeenWindows:
    """The windows of one species that training read.

    times: how often each training window was read, int64 (training windows,); 1 where it is not
    counted. reach: bp that an input reaches beyond its target on either side, its shift included.
    """

    data: SpeciesData
    times: np.ndarray
    reach: int
    counted: bool

    @cached_property
    def _times_of_rows(self) -> np.ndarray:
        times = np.zeros(len(self.data), dtype=np.int64)
        times[self.data.rows("train")] = self.times
        return times

    @cached_property
    def _rows_of_contigs(self) -> dict[str, np.ndarray]:
        chrom = self.data.windows.chrom
        return {str(name): np.flatnonzero(chrom == name) for name in np.unique(chrom)}

    def stretches(self) -> Iterator[Stretch]:
        """The inputs of windows that were trained on, and those that only validated."""
        windows = self.data.windows
        for contig in self.data.manifest.contigs:
            rows = self._rows_of_contigs.get(contig.name, _NOTHING)
            ends = contig.start, contig.start + contig.length
            inside = (windows.start[rows] >= ends[0]) & (windows.end[rows] <= ends[1])
            rows = rows[inside]
            train = self._inputs(rows[self._times_of_rows[rows] > 0], *ends)
            valid = self._inputs(rows[windows.split[rows] == "valid"], *ends)
            for kind, found in ((TRAIN, train), (VALID, valid.without(train))):
                for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True):
                    yield Stretch(self.data, contig, start, end, kind)

    def _inputs(self, rows: np.ndarray, first: int, last: int) -> Stretches:
        windows = self.data.windows
        return Stretches.covered_by(
            np.maximum(windows.start[rows] - self.reach, first),
            np.minimum(windows.end[rows] + self.reach, last),
        )

    def readings(self, contig: str, place: int) -> tuple[int, int, list[str]]:
        """How often a base was read in targets, and in inputs; in which other splits it lies.

        Other splits are those in whose windows' inputs it lies.
        """
        windows, rows = self.data.windows, self._rows_of_contigs[contig]
        before, after = place - windows.start[rows], windows.end[rows] - 1 - place
        in_target = (before >= 0) & (after >= 0)
        in_input = (before >= -self.reach) & (after >= -self.reach)
        times, splits = self._times_of_rows[rows], windows.split[rows]
        others = sorted({str(split) for split in splits[in_input] if split != "train"})
        return int(times[in_target].sum()), int(times[in_input].sum()), others


def seen_windows(training: Training, paths: Sequence[Path]) -> tuple[dict[str, SeenWindows], Gaps]:
    """The windows that training read, by species, and what that leaves open.

    Of species that it read in an order that is not known, or that the weights read that it began
    with, all training windows count.

    paths: of the data; where they are those of the run, () will do. Raises UserError where data are
    missing or are not those it was trained on.
    """
    datasets = _open(training, paths)
    counts = {name: len(data.rows("train")) for name, data in datasets.items()}
    times, shift_bp = _times_drawn(training, counts)
    found = {}
    for name, data in datasets.items():
        readers = [one for one in training.readings if one.was_of(data) is not False]
        counted = name in times and len(readers) == 1
        seq_length = max(one.seq_length for one in readers)
        found[name] = SeenWindows(
            data,
            times[name] if counted else np.ones(counts[name], dtype=np.int64),
            (seq_length - data.target_length * data.bin_size) // 2 + shift_bp,
            counted,
        )
    not_searched, not_known = find_gaps(training.readings, datasets)
    if not training.all_readings:
        first = training.readings[-1].source
        not_known.append(f"whether {first} began with other weights, and what those had read")
    uncounted = [name for name, windows in found.items() if not windows.counted]
    return found, Gaps(not_searched, not_known, uncounted)


def _times_drawn(
    training: Training, counts: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], int]:
    """How often the run read each training window, by species, and by how many bp it moves them.

    Of species whose order is known alone. counts: of training windows.
    """
    config, windows = training.config, training.windows_read
    if config is None or windows is None:
        return {}, 0
    own = {name: count for name, count in counts.items() if name in training.in_order}
    return SampleOrder.of_run(config, own, 1, 1).times_drawn(windows), config.data.shift_bp


def _open(training: Training, paths: Sequence[Path]) -> dict[str, SpeciesData]:
    """The data sets in the order of the run, on which the order of its windows depends."""
    config = training.config
    known = [Path(path) for path in config.data.paths] if config else []
    if not paths and not known:
        raise UserError(f"{training.source}: does not tell where its data lie; give --data")
    if not paths and (moved := [str(path) for path in known if not path.is_dir()]):
        raise UserError(
            f"{training.source}: was trained on {', '.join(moved)}, which is not there; give "
            "--data with the folders where the data are now"
        )
    datasets = open_datasets([*paths] or known)
    for data in datasets.values():
        _require_read(training, data)
    if config is None:
        return datasets
    if any(name not in datasets for name in training.in_order):
        raise UserError(
            f"--data holds {', '.join(datasets)}; {training.source} was trained on {len(known)} "
            f"data sets ({', '.join(path.name for path in known)}), and which windows it read "
            "follows from all of them"
        )
    places = {name: place for place, name in enumerate(config.space.species)}
    return dict(sorted(datasets.items(), key=lambda item: places.get(item[0], 0)))


def _require_read(training: Training, data: SpeciesData) -> None:
    """UserError for data that neither training nor the weights that it began with have read."""
    readers = [one for one in training.readings if data.name in one.manifests]
    if not readers:
        names = dict.fromkeys(name for one in training.readings for name in one.manifests)
        raise UserError(
            f"{data.path}: species {data.name!r}; {training.source} was trained on "
            f"{', '.join(names) or 'data that it does not name'}"
        )
    # Of a species that a run reads itself its own data are searched.
    asked = readers[:1] if readers[0] is training.readings[0] else readers
    if all(one.was_of(data) is False for one in asked):
        raise UserError(
            f"{data.path}: its windows and splits are not those that {training.source} was "
            "trained with; give the data it was trained with"
        )
