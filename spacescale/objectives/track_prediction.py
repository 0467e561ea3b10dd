"""How well a model predicts held-out tracks: one streaming definition for training and reports.

Pearson correlation per track over all positions of all windows, on two scales: `raw`, and
`log1p` of prediction and target in multiples of the track's training mean (so that the figure
does not depend on a track's sequencing depth). Shapes: B windows, N bins, T tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from spacescale.dataset.augment import flip
from spacescale.dataset.batch import SpeciesBatch
from spacescale.metrics.regression import PearsonMoments
from spacescale.metrics.routing import ExpertUse
from spacescale.metrics.track_scale import TrackScale
from spacescale.model.space import SpaceOutput
from spacescale.space_config import ModelConfig

Predict = Callable[[dict[str, Tensor]], SpaceOutput]


class TrackScores:
    """Addable moments of one species' tracks on the two scales that are always reported."""

    def __init__(self, num_tracks: int, device: torch.device | str = "cpu"):
        self.raw = PearsonMoments(num_tracks, device)
        self.log1p = PearsonMoments(num_tracks, device)

    @classmethod
    def from_tensor(cls, sums: Tensor) -> TrackScores:
        """Scores held by a float64 (2, 6, T) tensor, for example after an all-reduce."""
        scores = cls(0)
        scores.raw, scores.log1p = (PearsonMoments.from_tensor(part) for part in sums)
        return scores

    def tensor(self) -> Tensor:
        """A copy of all moments, float64 (2, 6, T): raw, log1p."""
        return torch.stack([self.raw.tensor(), self.log1p.tensor()])

    def __add__(self, other: TrackScores) -> TrackScores:
        return TrackScores.from_tensor(self.tensor() + other.tensor())

    def cpu(self) -> TrackScores:
        """The same on the CPU."""
        return TrackScores.from_tensor(self.tensor().cpu())

    def update(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Add windows (B, N, T) in multiples of the track mean; log1p takes negatives as 0.

        `weight` (B,) is 0 for windows that only fill a batch up.
        """
        self.raw.update(prediction, target, weight)
        self.log1p.update(prediction.clamp(min=0).log1p(), target.clamp(min=0).log1p(), weight)

    def left_out(self) -> list[str]:
        """Why each track has no Pearson in log1p, "" where it has one.

        "not measured"; "constant", its target or prediction; "undefined in log1p", as where all
        targets are below 0, which log1p takes as 0 and `raw` does not.
        """
        reasons = []
        measured = self.raw.measured().tolist()
        log1p, raw = ((~part.pearson().isnan()).tolist() for part in (self.log1p, self.raw))
        for track, defined in enumerate(log1p):
            if defined:
                reasons.append("")
            elif raw[track]:
                reasons.append("undefined in log1p")
            else:
                reasons.append("constant" if measured[track] else "not measured")
        return reasons


def empty_expert_use(model: ModelConfig, device: torch.device | str = "cpu") -> ExpertUse:
    """An empty count of expert use for a model of this configuration."""
    return ExpertUse(
        list(model.species),
        model.profile_types,
        model.depth if model.species_num_experts else 0,
        model.species_num_experts,
        model.tracks_num_experts if model.decoder == "moe" else 0,
        device,
    )


def add_expert_use(use: ExpertUse, output: SpaceOutput) -> None:
    """Add the gate mass of one forward pass."""
    decoder = output.decoder_routing
    use.update(
        [sums.gate_mass for sums in output.encoder_routing],
        decoder.gate_mass if decoder is not None else None,
    )


@torch.no_grad()
def predict_windows(
    predict: Predict,
    species: str,
    batch: SpeciesBatch,
    scale: TrackScale,
    strand_pair: np.ndarray | None = None,
) -> tuple[Tensor, SpaceOutput]:
    """Predict one batch of a species: float32 (B, N, T) in track means, and the model's output.

    With `strand_pair` (T,) the mean of the predictions for both strands is taken: of the reverse
    complement each track says what its opposite strand stores.
    """
    output = predict({species: batch.codes})
    prediction = scale.predicted_in_means(output.prediction[species].float())
    if strand_pair is None:
        return prediction, output
    flipped = torch.from_numpy(
        np.stack(
            [
                flip(c, np.empty((0, len(strand_pair))), strand_pair)[0]
                for c in batch.codes.cpu().numpy()
            ]
        )
    ).to(batch.codes.device)
    other = scale.predicted_stored(predict({species: flipped}).prediction[species].float())
    pair = torch.from_numpy(strand_pair).to(other.device)
    return (prediction + other.flip(1)[..., pair] / scale.means) / 2, output


def score_split(
    predict: Predict,
    species: str,
    batches: Iterable[tuple[SpeciesBatch, Tensor | None]],
    scale: TrackScale,
    strand_pair: np.ndarray | None = None,
    observe: Callable[[SpeciesBatch, Tensor, SpaceOutput], None] | None = None,
) -> TrackScores:
    """Score the windows of one species.

    `batches` yields windows on the model's device (where `scale` lies too) with the weight of
    each; `observe` is shown every batch with its prediction in track means and the model's output.
    """
    scores = TrackScores(len(scale.means), scale.means.device)
    for batch, weight in batches:
        prediction, output = predict_windows(predict, species, batch, scale, strand_pair)
        scores.update(prediction, scale.in_means(batch.targets), weight)
        if observe is not None:
            observe(batch, prediction, output)
    return scores
