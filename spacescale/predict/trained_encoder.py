"""A trained encoder of tokens as plain PyTorch, from a run, a checkpoint or an export."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from spacescale.checkpoint import layout
from spacescale.checkpoint.consolidate import load_model
from spacescale.checkpoint.found import find_best
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.token_windows import RowMaker
from spacescale.errors import UserError
from spacescale.mlm_config import MlmConfig
from spacescale.model.encoder import Encoder
from spacescale.model.encoder_export import load_encoder
from spacescale.model.exports import holds_encoder, is_export, read_encoder_export
from spacescale.predict.trained_model import OTHER_SPLIT, splits_of
from spacescale.tokens.vocabulary import Name, Vocabulary, read_vocabulary

VOCABULARY = "vocabulary"  # folder in checkpoints and exports

logger = logging.getLogger(__name__)


@dataclass
class TrainedEncoder:
    """An encoder in evaluation mode, on the CPU, its vocabulary, and what it was trained on.

    data_manifests, data_splits: by species, as of a TrainedModel. data_paths: [] for an export.
    run: the run folder, if it comes from one.
    """

    model: Encoder
    source: Path
    mlm: MlmConfig
    vocabulary: Vocabulary
    data_manifests: dict[str, str]
    data_splits: dict[str, str | None]
    data_paths: list[Path]
    run: Path | None

    def makers(self) -> dict[Name, RowMaker]:
        """What makes rows for it, by vocabulary."""
        return {n: RowMaker(self.vocabulary, n, self.mlm) for n in self.vocabulary.names}

    def check_splits(self, genome: SpeciesGenome, other_split: bool) -> None:
        """Refuse data of a known species that are split in another way than in training.

        other_split: warn of them instead. Warns where nothing tells how they were split.
        """
        if genome.name not in self.data_manifests:
            return
        splits = splits_of(genome, self.data_manifests, self.data_splits)
        if splits == "other" and not other_split:
            raise UserError(
                f"{genome.path}: its splits are not those that {self.source} was trained with, so "
                "held-out sequence may have been trained on. Give the data it was trained with, or "
                "--other-split to score them all the same"
            )
        if splits != "as trained":
            logger.warning("%s: %s", genome.path, OTHER_SPLIT if splits == "other" else splits)


def holds_tokens(path: Path) -> bool:
    """Whether a run, checkpoint or export is of the objective `tokens`; False for anything else.

    Raises UserError where what lies there is damaged.
    """
    if is_export(path):
        return holds_encoder(path)
    checkpoint = find_best(path)
    if checkpoint is None:
        return False
    return layout.read_config(checkpoint, layout.read_state(checkpoint)).objective == "tokens"


def load_trained_encoder(path: Path) -> TrainedEncoder:
    """Load an export, a checkpoint, or a run folder (its best checkpoint) of tokens.

    Raises UserError where there is none of them, or it is damaged.
    """
    if is_export(path):
        payload = read_encoder_export(path)
        mlm, trained = MlmConfig.model_validate(payload["mlm"]), payload["trained"]
        return TrainedEncoder(
            model=load_encoder(path),
            source=path,
            mlm=mlm,
            vocabulary=_vocabulary(path, mlm),
            data_manifests=trained["data_manifests"],
            data_splits=layout.data_splits(trained),
            data_paths=[],
            run=None,
        )
    checkpoint = find_best(path)
    if checkpoint is None:
        raise UserError(f"{path}: neither a run folder, a checkpoint nor an export")
    model, config = load_model(checkpoint)
    if not isinstance(model, Encoder):
        raise UserError(f"{checkpoint}: of objective {config.objective}; expected one of tokens")
    state = layout.read_state(checkpoint)
    run = checkpoint.resolve().parent.parent
    in_run = checkpoint.resolve().parent == layout.checkpoints_folder(run)
    return TrainedEncoder(
        model=model,
        source=checkpoint,
        mlm=config.mlm,
        vocabulary=_vocabulary(checkpoint, config.mlm),
        data_manifests=state["data_manifests"],
        data_splits=layout.data_splits(state),
        data_paths=[Path(data) for data in config.data.paths],
        run=checkpoint.parent.parent if in_run else None,
    )


def _vocabulary(folder: Path, mlm: MlmConfig) -> Vocabulary:
    found = read_vocabulary(folder / VOCABULARY, mlm.vocabularies)
    if found.sha256 != mlm.vocabulary_sha256:
        raise UserError(
            f"{folder / VOCABULARY}: not the vocabulary that the model was trained with (sha256 "
            f"{found.sha256[:12]}, expected {mlm.vocabulary_sha256[:12]})"
        )
    return found
