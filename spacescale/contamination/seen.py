"""Which windows weights have seen in training: the sample order is a pure function of the step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spacescale.checkpoint import layout
from spacescale.checkpoint.found import find_best
from spacescale.config import Config
from spacescale.dataset.loader import open_datasets
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.sampler import SampleOrder
from spacescale.dataset.schema import Contig
from spacescale.dataset.species_genome import same_splits
from spacescale.errors import UserError
from spacescale.genome.stretches import Stretches
from spacescale.model.exports import (
    holds_encoder,
    is_export,
    read_encoder_export,
    read_export,
)

TRAIN, VALID = 0, 1  # kinds of stretches
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Training:
    """What weights tell of their training.

    step: optimiser steps, None where they do not tell. config: of the run, None where the order of
    its windows is not known; then any training window may have been seen. layout: processes,
    micro-batch and accumulation. manifests, splits: hashes of each species' data set, None where
    not known. digest: see `digest_of_weights`, None where not known, or of another step.
    """

    source: Path
    step: int | None
    seq_length: int
    manifests: Mapping[str, str | None]
    splits: Mapping[str, str | None]
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
        training = Training(
            path,
            trained["step"],
            payload["model"]["seq_length"],
            trained["data_manifests"],
            layout.data_splits(trained),
            digest=_digest(trained),
        )
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
        config.space.seq_length,
        state["data_manifests"],
        layout.data_splits(state),
        config if same_order else None,
        state["layout"],
        _digest(state) if steps in (None, state["step"]) else None,
    )


def digest_of_weights(path: Path) -> str | None:
    """By what weights are known again, the same for a run, its checkpoint and exports of it.

    Of the step, validation's scores at it, and data and splits; None where nothing is known of
    data, as of released weights. Raises UserError where `path` is none of them.
    """
    if is_export(path):
        read = read_encoder_export if holds_encoder(path) else read_export
        return _digest(read(path)["trained"])
    checkpoint = find_best(path)
    if checkpoint is None:
        raise UserError(f"{path}: neither a run folder, a checkpoint nor an export")
    return _digest(layout.read_state(checkpoint))


def _digest(trained: Mapping[str, Any]) -> str | None:
    """trained: state of a checkpoint, or the record of an export, which keep these alike."""
    if not any(trained["data_manifests"].values()):
        return None
    kept = [trained["step"], trained["metrics"], trained["data_manifests"]]
    text = json.dumps([*kept, layout.data_splits(trained)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _require_own_windows(source: Path, reads_anywhere: bool) -> None:
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
    known. reach: bp that an input reaches beyond its target on either side, its shift included.
    """

    data: SpeciesData
    times: np.ndarray
    reach: int

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


def seen_windows(
    training: Training, paths: Sequence[Path]
) -> tuple[dict[str, SeenWindows], list[str]]:
    """The windows that training read, by species, and what is not known of them, in words.

    paths: of the data; where they are those of the run, () will do. Raises UserError where data are
    missing or are not those it was trained on.
    """
    datasets = _open(training, paths)
    notes = [
        f"{name}: not among the data, so its windows were not searched"
        for name in training.manifests
        if name not in datasets
    ]
    for name, data in datasets.items():
        if note := _identity(training, data):
            notes.append(f"{name}: {note}")
    counts = {name: len(data.rows("train")) for name, data in datasets.items()}
    config, windows = training.config, training.windows_read
    if config is None or windows is None:
        notes.append("in which order windows were read is not known: all training windows count")
        times = {name: np.ones(count, dtype=np.int64) for name, count in counts.items()}
        shift_bp = 0
    else:
        times = SampleOrder.of_run(config, counts, 1, 1).times_drawn(windows)
        shift_bp = config.data.shift_bp
    found = {}
    for name, data in datasets.items():
        margin = training.seq_length - data.target_length * data.bin_size
        found[name] = SeenWindows(data, times[name], margin // 2 + shift_bp)
    return found, notes


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
    if config is None:
        return datasets
    if len(datasets) != len(known):
        raise UserError(
            f"--data holds {', '.join(datasets)}; {training.source} was trained on {len(known)} "
            f"data sets ({', '.join(path.name for path in known)}), and which windows it read "
            "follows from all of them"
        )
    places = {name: place for place, name in enumerate(config.space.species)}
    return dict(sorted(datasets.items(), key=lambda item: places.get(item[0], 0)))


def _identity(training: Training, data: SpeciesData) -> str:
    """What is not known of a data set's identity; UserError where it is another one."""
    if data.name not in training.manifests:
        raise UserError(
            f"{data.path}: species {data.name!r}; {training.source} was trained on "
            f"{', '.join(training.manifests) or 'data that it does not name'}"
        )
    if data.manifest_hash == training.manifests[data.name]:
        return ""
    split = training.splits.get(data.name)
    if split is None:
        return "whether these are the windows it was trained on is not known"
    if not same_splits(split, data.splits_identity(of_bases=False)):
        raise UserError(
            f"{data.path}: its windows and splits are not those that {training.source} was "
            "trained with; give the data it was trained with"
        )
    return ""
