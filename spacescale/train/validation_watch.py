"""What the validations so far say: which is best, whether to go on, and whether it overfits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
        self._now: dict[str, list[float]] = {}  # the same of the last validation alone

    def begin_phase(self) -> None:
        """Forget what was before: other losses count from now on."""
        self.best_score, self.not_better, self.losses = math.nan, 0, {}

    def note(self, scores: Mapping[str, float]) -> bool:
        """Hear of a validation's scores of what is trained; whether they are the best so far.

        That is since the phase began. Until a first score is a number, none counts as worse.
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

    def gaps(
        self,
        scores: Mapping[str, float],
        training: LossSums,
        same_loss: Callable[[str], bool],
    ) -> dict[str, float]:
        """Training's unweighted loss less validation's, of each species that has both.

        scores: of what is trained. same_loss: of a species, whether both are of the same thing;
        otherwise their difference says nothing. Remembers both for `lines`, where each is held
        against itself alone.
        """
        self._now = {}
        for name, sums in training.items():
            pair = [scores.get(f"{VALIDATION_LOSS}/{name}", math.nan), sums.mean]
            if all(map(math.isfinite, pair)):
                self._now[name] = pair
                self.losses[name] = [*self.losses.get(name, []), pair][-RISES - 1 :]
        both = self._now.items()
        return {f"{GAP}/{name}": train - valid for name, (valid, train) in both if same_loss(name)}

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
        for name, (valid_now, train_now) in self._now.items():
            past = self.losses[name]
            valid, train = past[0]
            rises = len(past) > RISES and all(a[0] < b[0] for a, b in pairwise(past))
            if rises and train_now < train:
                found.append(
                    f"step {step}: {name} overfits: over {RISES} validations its loss rose from "
                    f"{valid:.4g} to {valid_now:.4g} while training's fell from {train:.4g} to "
                    f"{train_now:.4g}; the best checkpoint is kept, run.patience ends such a run"
                )
        return found

    def _describe(self, species: str, scores: Mapping[str, float]) -> str:
        """A species' score and losses in a few words."""
        score = scores.get(f"{self.score.name}/{species}")
        parts = [f"{score:.3f}"] if score is not None else []  # a species may have a loss alone
        parts.append(f"{scores[f'{VALIDATION_LOSS}/{species}']:.4g}")
        training = f" ({self._now[species][1]:.4g})" if species in self._now else ""
        return f"{species} {', '.join(parts)}{training}"

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
