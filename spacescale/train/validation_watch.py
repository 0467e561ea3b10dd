"""What the validations so far say: which is best, whether to go on, and whether it overfits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from spacescale.config import VALIDATION_LOSS, RunConfig, merit
from spacescale.objectives import Score
from spacescale.train.interval_losses import LossSums

GAP = "valid/gap"  # of a species: training's loss since the validation before, less validation's
RISES = 3  # in a row, of the validation loss, that are spoken of


class ValidationWatch:
    """Remembers what it needs of the validations before; alike on all ranks.

    score: what is told of each validation beside its loss.
    """

    def __init__(self, run: RunConfig, score: Score):
        self.score = score
        self.metric, self.patience = run.best_metric, run.patience
        self.best_score = math.nan
        self.not_better = 0  # validations since the best
        self.losses: dict[str, list[list[float]]] = {}  # species → [validation's, training's]

    def note(self, scores: Mapping[str, float]) -> bool:
        """Hear of a validation's scores; whether they are the best so far.

        Until a first score is a number, none counts as worse.
        """
        score = scores.get(self.metric, math.nan)
        is_best = math.isfinite(score) and not (
            merit(score, self.metric) <= merit(self.best_score, self.metric)
        )
        if is_best:
            self.best_score, self.not_better = score, 0
        elif math.isfinite(self.best_score):
            self.not_better += 1
        return is_best

    def gaps(self, scores: Mapping[str, float], training: LossSums) -> dict[str, float]:
        """Training's unweighted loss less validation's, of each species that has both.

        Remembers both, for `lines`.
        """
        found = {}
        for name, sums in training.items():
            loss = scores.get(f"{VALIDATION_LOSS}/{name}", math.nan)
            if math.isfinite(gap := sums.mean - loss):
                found[f"{GAP}/{name}"] = gap
                self.losses[name] = [*self.losses.get(name, []), [loss, sums.mean]][-RISES - 1 :]
        return found

    def lines(self, step: int, scores: Mapping[str, float]) -> list[str]:
        """What to say: a line of scores, and one for each species that overfits.

        That is one whose validation loss has risen RISES times in a row while training's fell.
        """
        prefix = f"{VALIDATION_LOSS}/"
        species = [key.removeprefix(prefix) for key in scores if key.startswith(prefix)]
        parts = [self._describe(name, scores) for name in species]
        if self.patience and self.not_better:
            parts.append(f"not better for {self.not_better} of {self.patience} validations")
        what = f"validation, {self.score.words} and loss (in training)"
        found = [f"step {step}: {what}: {'; '.join(parts)}"]
        for name, past in self.losses.items():
            (valid, train), (valid_now, train_now) = past[0], past[-1]
            rises = len(past) > RISES and all(a[0] < b[0] for a, b in pairwise(past))
            if f"{GAP}/{name}" in scores and rises and train_now < train:
                found.append(
                    f"step {step}: {name} overfits: over {RISES} validations its loss rose from "
                    f"{valid:.4g} to {valid_now:.4g} while training's fell from {train:.4g} to "
                    f"{train_now:.4g}; the best checkpoint is kept, run.patience ends such a run"
                )
        return found

    def _describe(self, species: str, scores: Mapping[str, float]) -> str:
        """A species' score and losses in a few words."""
        score = scores.get(f"{self.score.name}/{species}")
        loss = scores.get(f"{VALIDATION_LOSS}/{species}", math.nan)
        training = loss + scores.get(f"{GAP}/{species}", math.nan)
        parts = [f"{score:.3f}"] if score is not None else []  # a species may have a loss alone
        return f"{species} {', '.join([*parts, f'{loss:.4g} ({training:.4g})'])}"

    @property
    def early_stop(self) -> str | None:
        """Why the run is to end before its last step; None if it is to go on."""
        if not self.patience or self.not_better < self.patience:
            return None
        return (
            f"{self.metric} was not better than {self.best_score:.4g} in {self.not_better} "
            f"validations (run.patience={self.patience})"
        )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on as this one would, beside the best score."""
        return {"not_better": self.not_better, "losses": self.losses}

    def restore(self, state: Mapping[str, Any], best_score: float | None) -> None:
        """Go on from what `state` gave; a best score of None is another metric's, or of nothing."""
        self.losses = {name: [*past] for name, past in state.get("losses", {}).items()}
        if best_score is not None:
            self.best_score, self.not_better = best_score, state.get("not_better", 0)
