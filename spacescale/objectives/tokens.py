"""The objective of Genomics-FM: hidden words of the sequence, told from those around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from spacescale.config import VALIDATION_LOSS, Config, describe_errors
from spacescale.dataset.batch import Batch, TokenBatch
from spacescale.dataset.loader import Windows, open_genomes
from spacescale.dataset.run_data import RunData
from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.token_windows import RowMaker, TokenWindows, joined
from spacescale.errors import UserError
from spacescale.files import read_json
from spacescale.model.encoder import Encoder
from spacescale.model.encoder_export import load_encoder
from spacescale.model.species_loss import SpeciesLoss
from spacescale.objectives.objective import (
    Datasets,
    Losses,
    Model,
    Objective,
    Score,
    Stopped,
    SumOverRanks,
    require_known_species,
)
from spacescale.objectives.token_scores import logged, score_split
from spacescale.overrides import nearest
from spacescale.tokens.masking import IGNORED
from spacescale.tokens.vocabulary import (
    FILE,
    Name,
    Vocabulary,
    read_vocabulary,
    vocabulary_file,
)

PROBE_LENGTHS = (24, 15)  # tokens of the probe's rows

logger = logging.getLogger(__name__)


class TokensObjective(Objective):
    """Cross-entropy of hidden tokens: the mean over vocabularies of the mean over their tokens.

    Rows are made in dataset/token_windows.py, scores in token_scores.py.
    """

    score = Score("valid/accuracy", "accuracy of hidden tokens")
    attachments = ("vocabulary",)  # vocabulary.json

    def open(self, paths: list[Path]) -> dict[str, Any]:
        """Open species folders, with or without tracks."""
        return open_genomes(paths)

    def complete(self, datasets: Datasets) -> Config:
        """The configuration with paths of data and vocabulary, its size and identity.

        Raises UserError where no vocabulary is named, or another one than is needed.
        """
        config = self.config
        if not config.mlm.vocabulary:
            raise UserError(
                "mlm.vocabulary: name the vocabulary, as mlm.vocabulary=vocab; data_prep/"
                "vocabulary.py makes one, and a published BPE's tokenizer.json does as well"
            )
        path = Path(config.mlm.vocabulary).resolve()
        vocabulary = read_vocabulary(path, config.mlm.vocabularies)
        if "kmer" in vocabulary.names and config.mlm.shortest_bp < vocabulary.kmer:
            raise UserError(
                f"mlm.shortest_bp={config.mlm.shortest_bp} is shorter than a word of {path}, "
                f"{vocabulary.kmer} bp"
            )
        require_known_species(datasets, data__species_importance=config.data.species_importance)
        payload = config.model_dump()
        payload["model"]["vocab_size"] = len(vocabulary)
        payload["mlm"] |= {"vocabulary": str(path), "vocabulary_sha256": vocabulary.sha256}
        payload["data"]["paths"] = tuple(str(data.path.resolve()) for data in datasets.values())
        try:
            complete = Config.model_validate(payload)
        except ValidationError as error:
            raise UserError(describe_errors(error)) from None
        kinds = VALIDATION_LOSS, self.score.name
        scored = _held_out(datasets)
        names = [*kinds, *(f"{kind}/{species}" for species in scored for kind in kinds)]
        if (metric := config.run.best_metric) not in names:
            raise UserError(
                f"run.best_metric={metric}{nearest(metric, names)}; there are: {', '.join(names)}"
            )
        return complete

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """That of the run; UserError where another one lies there now."""
        mlm = self.config.mlm
        found = read_vocabulary(Path(mlm.vocabulary), mlm.vocabularies)
        if found.sha256 != mlm.vocabulary_sha256:
            raise UserError(
                f"{mlm.vocabulary}: another vocabulary than when the run began (sha256 "
                f"{found.sha256[:12]}, was {mlm.vocabulary_sha256[:12]})"
            )
        return found

    def build(self) -> Encoder:
        """An encoder with fresh weights."""
        return Encoder(self.config.encoder)

    def windows(
        self,
        datasets: Datasets,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        accumulation: int,
    ) -> TokenWindows:
        """Rows of training sequence, equally many of each vocabulary."""
        sizes = micro_batch_size, rank, world_size
        return TokenWindows(datasets, self.vocabulary, self.config, *sizes)

    def require_same(self, checkpoint: Path, saved: Config) -> None:
        """Raise UserError where the vocabulary is another, wherever it lies."""
        before, now = saved.mlm, self.config.mlm
        if before.vocabularies != now.vocabularies:
            raise UserError(
                f"{checkpoint}: mlm.vocabularies was {list(before.vocabularies)}, is now "
                f"{list(now.vocabularies)}; resume with the same"
            )
        if before.vocabulary_sha256 != now.vocabulary_sha256:
            kept = checkpoint / "vocabulary"
            raise UserError(
                f"{checkpoint}: {now.vocabulary} is not the vocabulary it was trained with (sha256 "
                f"{before.vocabulary_sha256[:12]}, now {now.vocabulary_sha256[:12]}), which lies "
                f"in its folder `vocabulary`; resume with mlm.vocabulary={kept}"
            )

    def begin(self, datasets: Datasets, device: torch.device) -> None:
        """Take the sequences that are scored: of species that have any."""
        self.datasets, self.device = datasets, device
        self.scored = _held_out(datasets)
        mlm = self.config.mlm
        self.makers: dict[Name, RowMaker] = {
            name: RowMaker(self.vocabulary, name, mlm) for name in self.vocabulary.names
        }

    def announce(self, model: nn.Module, windows: Windows, dtype: torch.dtype) -> None:
        """Say how much sequence trains, and in which words."""
        for name, genome in self.datasets.items():
            bases = ", ".join(f"{bp:,} bp {s}" for s, bp in genome.bases_of_splits().items())
            logger.info("%s: %s", name, bases)
        found = self.vocabulary
        logger.info(
            "vocabulary of %s: %d tokens, sha256 %s",
            *(" and ".join(found.names), len(found), found.sha256),
        )

    def losses(self, model: Model, batch: Batch, sum_over_ranks: SumOverRanks, step: int) -> Losses:
        """Of all ranks' rows, as all ranks compute it alike; by vocabulary and by species."""
        parts: list[TokenBatch] = [*batch.values()]
        rows = joined(parts, self.vocabulary.pad_id)
        selected = rows.labels != IGNORED
        logits = model(rows.ids, rows.attended, selected)  # (M, V)
        nats = F.cross_entropy(logits.float(), rows.labels[selected], reduction="none")  # (M,)
        species = torch.arange(len(parts), device=nats.device).repeat_interleave(
            torch.tensor([part.num_windows for part in parts], device=nats.device)
        )
        shape = len(parts), len(self.vocabulary.names)
        group = (species * shape[1] + rows.vocabulary)[:, None].expand_as(selected)[selected]
        member = F.one_hot(group, shape[0] * shape[1]).to(nats.dtype)  # (M, S·K)
        sums = torch.cat([(nats[:, None] * member).sum(0), member.sum(0)])
        lost, tokens = sum_over_ranks(sums).view(2, *shape)  # (S, K) each
        of_vocabulary = lost.sum(0) / tokens.sum(0).clamp(min=1)  # (K,)
        of_species = (lost / tokens.clamp(min=1)).sum(1) / (tokens > 0).sum(1).clamp(min=1)  # (S,)
        return Losses(
            of_vocabulary.mean(),
            {f"tokens/{n}": loss for n, loss in zip(self.makers, of_vocabulary, strict=True)},
            {
                name: SpeciesLoss(loss, part.on_all_ranks, 1.0)
                for (name, part), loss in zip(batch.items(), of_species, strict=True)
            },
        )

    def same_loss(self, species: str) -> bool:
        """Scores hide all words by [MASK]; training shows some as they were, and others changed."""
        return False

    def validate(
        self, model: Model, batch_size: int, stop_asked: Callable[[], bool]
    ) -> dict[str, float] | None:
        """Loss, accuracy and bits per base of species and vocabularies, with masks fixed for ever.

        Of each, at most `run.valid_windows` sequences.
        """
        most = self.config.run.valid_windows
        try:
            return logged(
                {
                    name: score_split(
                        model,
                        genome,
                        "valid",
                        self.makers,
                        batch_size,
                        self.device,
                        most,
                        stop_asked,
                    )
                    for name, genome in self.scored.items()
                }
            )
        except Stopped:
            return None

    def probe(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """Logits of every token of two fixed random rows, the second of them filled up."""
        generator = torch.Generator().manual_seed(20250612)
        shape = len(PROBE_LENGTHS), max(PROBE_LENGTHS)
        ids = torch.randint(0, self.config.encoder.vocab_size, shape, generator=generator)
        attended = torch.arange(shape[1]) < torch.tensor(PROBE_LENGTHS)[:, None]
        ids, attended = ids.to(device), attended.to(device)
        return {"logits": model(ids, attended, attended)}

    def attach(self, folder: Path, data: RunData) -> None:
        """Write the vocabulary, and what is known of how it was made."""
        (kept,) = self.attachments
        (folder / kept).mkdir()
        source = vocabulary_file(Path(self.config.mlm.vocabulary))
        made_from = read_json(source).get("made_from") or {"file": source.name}
        self.vocabulary.write(folder / kept / FILE, made_from)

    def describe(self) -> dict[str, Any]:
        """Shape of the model, and how its tokens were made and hidden."""
        mlm = self.config.mlm.model_dump(mode="json", exclude={"vocabulary"})
        return {
            "objective": "tokens",
            "model": self.config.encoder.model_dump(mode="json"),
            "mlm": mlm,
        }

    def load_export(self, folder: Path) -> Encoder:
        """The encoder as anybody loads it."""
        return load_encoder(folder)


def _held_out(datasets: Datasets) -> dict[str, SpeciesGenome]:
    """Those of which something is held out for validation."""
    return {n: genome for n, genome in datasets.items() if "valid" in genome.bases_of_splits()}
