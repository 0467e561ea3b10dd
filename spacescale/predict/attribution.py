"""Which bases a prediction rests on. Shapes: B sequences, L bases, T tracks.

Every method explains one number: the sum over some bins and the mean over some tracks of the
prediction, in multiples of the track means. Attributions are (4, L) in the order A C G T, and
hypothetical: of every base that could stand there; times the one-hot sequence they are those of
the bases that do.

DeepLIFT is not here: through this model's custom gradients, attention and routing its sum misses
the difference that it should explain by several times its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.model.layers import NUM_BASES, one_hot
from spacescale.predict.predictor import Predictor

Score = Callable[[Tensor], Tensor]  # codes (B, L) uint8 or bases (B, 4, L) float → (B,)
Method = Literal["ism", "gradient", "integrated"]
METHODS: dict[Method, str] = {
    "ism": "change of the score when the base is replaced, in silico mutagenesis",
    "gradient": "gradient of the score by the bases less its mean over the four of a position "
    "(Majdandzic et al. 2023)",
    "integrated": "gradients averaged on the way from no bases to the sequence (Sundararajan et "
    "al. 2017)",
}


@dataclass(frozen=True)
class Scope:
    """What is explained: rows of tracks, and bins of the predicted span, half-open."""

    tracks: tuple[int, ...]
    first_bin: int
    last_bin: int


class Attributor:
    """Explains predictions of one model for one scope."""

    def __init__(self, predictor: Predictor, scope: Scope):
        """Raises UserError for no tracks, or bins outside the predicted span."""
        bins = predictor.span // predictor.bin_size
        if not scope.tracks:
            raise UserError("no track to explain")
        if not 0 <= scope.first_bin < scope.last_bin <= bins:
            raise UserError(
                f"bins {scope.first_bin} to {scope.last_bin}: this model predicts bins 0 to {bins}"
            )
        self.predictor, self.scope = predictor, scope

    def score(self, batch: Tensor) -> Tensor:
        """The number that is explained, of each sequence: (B, L) codes or (B, 4, L) bases → (B,)"""
        scope = self.scope
        means = self.predictor.in_means(batch.to(self.predictor.device))
        return means[:, scope.first_bin : scope.last_bin, list(scope.tracks)].mean(2).sum(1)

    def attribute(
        self, codes: np.ndarray, method: Method, start: int = 0, end: int | None = None,
        steps: int = 64,
    ) -> np.ndarray:  # fmt: skip
        """Attributions float32 (4, end − start) of a window of codes (L,) uint8.

        start, end: the bases that are looked at. steps: of integrated gradients.
        """
        end = len(codes) if end is None else end
        if method == "ism":
            return self.mutagenesis(codes, start, end)
        bases = one_hot(torch.from_numpy(codes)[None], torch.float32)[0]
        if method == "gradient":
            found = corrected(self._gradients(bases[None]))[0]
        else:
            found = self._integrated(bases, steps)
        return found[:, start:end].cpu().numpy()

    def mutagenesis(self, codes: np.ndarray, start: int, end: int) -> np.ndarray:
        """Score with each base in place of that at each position, less the score as it is.

        Float32 (4, end − start), 0 at the bases that stand there. It takes 3 passes a base.
        """
        return mutagenesis(self.score, codes, start, end, self.predictor.batch_size)

    def _gradients(self, bases: Tensor) -> Tensor:
        """(B, 4, L) → the same: of each sequence's score."""
        return gradients(self.score, bases.to(self.predictor.device))

    def _integrated(self, bases: Tensor, steps: int) -> Tensor:
        """Midpoints of `steps` parts of the way from zeros; (4, L)."""
        total = torch.zeros_like(bases, device=self.predictor.device)
        shares = (torch.arange(steps) + 0.5) / steps
        for part in shares.split(self.predictor.batch_size):
            total += self._gradients(part[:, None, None] * bases).sum(0)
        return total / steps


def mutagenesis(
    score: Score, codes: np.ndarray, start: int, end: int, batch_size: int
) -> np.ndarray:
    """Score of codes (L,) with each base in place of that at each position, less that as it is.

    Float32 (4, end − start), 0 at the bases that stand there. It takes 3 passes a base.
    """
    places = [
        (at, base) for at in range(start, end) for base in range(NUM_BASES) if codes[at] != base
    ]
    found = np.zeros((NUM_BASES, end - start), dtype=np.float32)
    with torch.inference_mode():
        before = float(score(torch.from_numpy(codes)[None]))
        groups = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
        for group in tqdm(groups, unit="batch", desc="mutating", disable=None, leave=False):
            mutants = np.repeat(codes[None], len(group), axis=0)
            for row, (at, base) in enumerate(group):
                mutants[row, at] = base
            after = score(torch.from_numpy(mutants)).cpu().numpy()
            for (at, base), value in zip(group, after, strict=True):
                found[base, at - start] = value - before
    return found


def gradients(score: Score, bases: Tensor) -> Tensor:
    """Of each sequence's score by its bases (B, 4, L): the same shape."""
    bases = bases.detach().requires_grad_()
    (found,) = torch.autograd.grad(score(bases).sum(), bases)
    return found


def corrected(gradients: Tensor) -> Tensor:
    """Gradients (B, 4, L) less their mean over the four bases of a position."""
    return gradients - gradients.mean(1, keepdim=True)


def sequence_of(codes: np.ndarray) -> np.ndarray:
    """One-hot float32 (4, L) of codes (L,)."""
    return one_hot(torch.from_numpy(codes)[None], torch.float32)[0].numpy()


def save_for_modisco(
    sequences: Sequence[np.ndarray], attributions: Sequence[np.ndarray], stem: str
) -> tuple[str, str]:
    """Write STEM.sequences.npz and STEM.attributions.npz, (N, 4, L) float32 each, as `arr_0`.

    These are the two files that `modisco motifs -s … -a …` reads. All are of one length.
    """
    names = f"{stem}.sequences.npz", f"{stem}.attributions.npz"
    for name, parts in zip(names, (sequences, attributions), strict=True):
        np.savez_compressed(name, np.stack(parts).astype(np.float32))
    return names
