"""A trained model as plain PyTorch, from a run, a checkpoint or an export."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from spacescale.checkpoint import layout
from spacescale.checkpoint.consolidate import load_model
from spacescale.checkpoint.found import find_best
from spacescale.config import TrackScaleName
from spacescale.dataset.reader import SpeciesData
from spacescale.dataset.species_genome import SpeciesGenome, same_splits
from spacescale.errors import UserError
from spacescale.files import files_below
from spacescale.genome.aliases import auto_aliases, shorten
from spacescale.genome.tracks import Track, read_tracks
from spacescale.metrics.track_scale import TrackScale, nonzero_means
from spacescale.model.exports import is_export, read_export
from spacescale.model.space import Space

logger = logging.getLogger(__name__)

Splits = Literal["as trained", "other", "unknown"]
OTHER_SPLIT = "other splits than in training: held-out windows may have been trained on"


@dataclass
class TrainedModel:
    """A model in evaluation mode, on the CPU, and what it was trained on."""

    model: Space
    source: Path
    scale_name: TrackScaleName
    tracks: dict[str, list[Track]]
    data_manifests: dict[str, str | None]  # identity of each species' data set, where known
    data_splits: dict[str, str | None]  # and the hash of its splits, where it is known
    data_transforms: dict[str, str]  # of coverage to targets, where they are known
    data_paths: list[Path]  # where they lay; [] for an export
    run: Path | None  # the run folder, if it comes from one
    data_contigs: dict[str, dict[str, int]] = field(default_factory=dict)  # bp, where known

    def track_scale(self, species: str) -> TrackScale:
        """What the model predicts of each track of a species."""
        means = np.array([track.mean for track in self.tracks.get(species, [])], dtype=np.float32)
        return TrackScale(self.scale_name, nonzero_means(means))

    def check_data(self, data: SpeciesGenome, other_split: bool = False) -> None:
        """Refuse data whose species, tracks, geometry or splits are not the model's.

        other_split: warn of other splits instead. Raises UserError; warns where the data set is
        another than the one trained on and nothing tells whether its splits are.
        """
        config = self.model.config
        if data.name not in config.species:
            raise UserError(
                f"{data.path}: species {data.name!r}; {self.source} knows "
                f"{', '.join(config.species)}"
            )
        ours = self.tracks.get(data.name, [])
        theirs = data.tracks if isinstance(data, SpeciesData) else []
        if len(theirs) != len(ours):
            raise UserError(
                f"{data.path}: {len(theirs)} tracks; {self.source} predicts {len(ours)} of "
                f"{data.name}"
            )
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a.identifier != b.identifier:
                raise UserError(
                    f"{data.path}: track {index} is {b.identifier!r}; {self.source} predicts "
                    f"{a.identifier!r} there"
                )
        if isinstance(data, SpeciesData):
            self._check_geometry(data)
        self._check_splits(data, other_split)

    def _check_geometry(self, data: SpeciesData) -> None:
        config, bins, bin_size = self.model.config, data.target_length, data.bin_size
        if (bins, bin_size) != (config.target_length, config.bin_size):
            raise UserError(
                f"{data.path}: {bins} bins of {bin_size} bp; {self.source} predicts "
                f"{config.target_length} of {config.bin_size} bp"
            )

    def check_genome(self, species: str, fasta: Path, lengths: Mapping[str, int]) -> None:
        """Refuse a FASTA whose contigs are as long as those of another assembly.

        lengths: of its contigs, in bp. Raises UserError where one has another length than that of
        the same name in training; warns where none has such a name.
        """
        trained = self.data_contigs.get(species, {})
        shared = [name for name in trained if name in lengths]
        other = [name for name in shared if trained[name] != lengths[name]]
        if other:
            raise UserError(
                f"{fasta}: {other[0]} has {lengths[other[0]]:,} bp; {self.source} was trained on "
                f"one of {trained[other[0]]:,} bp, and {len(other)} of {len(shared)} contigs "
                "differ: another assembly, or species? --any-genome takes it all the same"
            )
        if trained and not shared and not auto_aliases(lengths, trained):
            logger.warning(
                "%s: no contig has the name of one that %s was trained on (%s): is this the "
                "genome that is meant?",
                fasta,
                self.source,
                shorten(trained),
            )

    def _check_splits(self, data: SpeciesGenome, other_split: bool) -> None:
        splits = self.splits_of(data)
        if splits == "other" and not other_split:
            raise UserError(
                f"{data.path}: its splits are not those that {self.source} was trained with, so "
                "held-out windows may have been trained on. Give the data it was trained with, or "
                "--other-split to score them all the same"
            )
        if splits == "other":
            logger.warning("%s: %s", data.path, OTHER_SPLIT)
        if splits == "unknown":
            logger.warning(
                "%s is not the data set that %s was trained on: its splits may differ, and "
                "held-out windows may have been trained on",
                data.path,
                self.source,
            )

    def splits_of(self, data: SpeciesGenome) -> Splits:
        """Say whether the data are split as those the model was trained on."""
        return splits_of(data, self.data_manifests, self.data_splits)


def splits_of(
    data: SpeciesGenome,
    manifests: Mapping[str, str | None],
    splits: Mapping[str, str | None],
) -> Splits:
    """Say whether the data are split as those a model was trained on.

    manifests, splits: species → identity of its data in training, and hash of their splits, None
    where they are not known.
    """
    if data.manifest_hash == manifests.get(data.name):
        return "as trained"
    known = splits.get(data.name)
    if known is None:
        return "unknown"
    same = same_splits(known, data.splits_identity(of_bases=True))
    return "as trained" if same else "other"


def load_trained(path: Path) -> TrainedModel:
    """Load an export, a checkpoint, or a run folder (its best checkpoint).

    Raises UserError where there is none of them, or it is damaged.
    """
    if is_export(path):
        payload = read_export(path)
        return TrainedModel(
            model=Space.from_pretrained(path),
            source=path,
            scale_name=payload["track_scale"],
            tracks=_read_tracks(path),
            data_manifests=payload["trained"]["data_manifests"],
            data_splits=layout.data_splits(payload["trained"]),
            data_transforms=payload["trained"].get("data_transforms", {}),
            data_paths=[],
            run=None,
            data_contigs=payload["trained"].get("data_contigs", {}),
        )
    checkpoint = find_best(path)
    if checkpoint is None:
        raise UserError(f"{path}: neither a run folder, a checkpoint nor an export")
    state = layout.read_state(checkpoint)
    objective = layout.read_config(checkpoint, state).objective
    if objective == "tokens":
        raise UserError(
            f"{checkpoint}: of objective {objective}, whose model predicts no tracks; expected one "
            "of profiles (SPACE)"
        )
    model, config = load_model(checkpoint)
    assert isinstance(model, Space), "the other objectives train it"
    in_run = checkpoint.resolve().parent == layout.checkpoints_folder(
        checkpoint.resolve().parent.parent
    )
    return TrainedModel(
        model=model,
        source=checkpoint,
        scale_name=config.loss.track_scale,
        tracks=_read_tracks(checkpoint),
        data_manifests=state["data_manifests"],
        data_splits=layout.data_splits(state),
        data_transforms=state.get("data_transforms", {}),
        data_paths=[Path(data) for data in config.data.paths],
        run=checkpoint.parent.parent if in_run else None,
        data_contigs=layout.data_contigs(state),
    )


def _read_tracks(folder: Path) -> dict[str, list[Track]]:
    tables = (path for path in files_below(folder / "tracks") if path.suffix == ".tsv")
    return {path.stem: read_tracks(path) for path in tables}
