"""A plain convolutional network on one-hot bases, trained for some minutes: the second baseline.

No attention, no experts, no species: two convolutions per halving down to a bin, then dilated ones.
Shapes: B windows, L bp, N bins, T tracks.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from spacescale.dataset.augment import flip
from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.evals.baseline_input import Strands, bases_around
from spacescale.genome import dna
from spacescale.metrics.regression import PearsonMoments

CHANNELS = 64
DILATIONS = (1, 2, 4, 8, 16)  # of convolutions over bins: they see 62 bins to either side
CONTEXT_BINS = 64  # read on either side of the predicted bins
BINS_AT_ONCE = 112  # a longer target is cut into pieces of about so many bins
PIECES_A_STEP = 4
LEARNING_RATE = 2e-3
CHECKS = 12  # on validation windows during the training, of which the best is kept
VALIDATION_PIECES = 64


class PlainCnn(nn.Module):
    """One-hot (B, L) codes → rates (B, N, T) in multiples of the track mean, context cut off."""

    def __init__(self, bin_size: int, num_tracks: int):
        super().__init__()
        halvings = bin_size.bit_length() - 1
        layers: list[nn.Module] = [_block(4, CHANNELS, 15)]
        for _ in range(halvings):
            layers += [nn.MaxPool1d(2), _block(CHANNELS, CHANNELS, 5)]
        self.to_bins = nn.Sequential(*layers)
        self.over_bins = nn.ModuleList(_block(CHANNELS, CHANNELS, 3, by) for by in DILATIONS)
        self.head = nn.Conv1d(CHANNELS, num_tracks, 1)

    def forward(self, codes: Tensor) -> Tensor:
        """Predict from codes, uint8 (B, L)."""
        one_hot = functional.one_hot(codes.long(), dna.N + 1)[..., : dna.N]
        x = self.to_bins(one_hot.float().transpose(1, 2))
        for block in self.over_bins:
            x = x + block(x)
        x = x[..., CONTEXT_BINS:-CONTEXT_BINS]
        return functional.softplus(self.head(x)).transpose(1, 2)


def _block(inputs: int, outputs: int, width: int, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv1d(inputs, outputs, width, padding="same", dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm1d(outputs), nn.GELU())


@dataclass(frozen=True)
class Piece:
    """Bins first … first + count of the target of a window."""

    row: int
    first: int
    count: int


@dataclass(frozen=True)
class CnnBaseline:
    """A trained network of one species."""

    data: SpeciesData
    strands: Strands
    model: PlainCnn
    minutes: float

    @property
    def name(self) -> str:
        """As printed above its scores."""
        return f"CNN {self.minutes:g} min"

    @torch.no_grad()
    def predict(self, rows: Sequence[int]) -> Tensor:
        """Predict windows: float32 (B, N, T), in multiples of the track mean."""
        return torch.stack(
            [
                torch.cat([self._predict(piece) for piece in pieces_of(self.data, [row])])
                for row in rows
            ]
        )

    def _predict(self, piece: Piece) -> Tensor:
        return self.strands.predict(partial(_rates, self.model), _codes(self.data, piece))


def _rates(model: PlainCnn, codes: np.ndarray) -> Tensor:
    batch = torch.from_numpy(codes)[None]
    return model(batch.to(model.head.weight.device))[0].cpu()


def pieces_of(data: SpeciesData, rows: Sequence[int]) -> list[Piece]:
    """Cut the targets of windows into near equal pieces of BINS_AT_ONCE bins at most."""
    number = -(-data.target_length // BINS_AT_ONCE)
    cuts = np.linspace(0, data.target_length, number + 1).astype(int).tolist()
    return [Piece(row, first, end - first) for row in rows for first, end in pairwise(cuts)]


def _codes(data: SpeciesData, piece: Piece, shift: int = 0) -> np.ndarray:
    """Bases of a piece and its context, uint8 (L,); N where the data set does not hold them."""
    codes, bin_size = bases_around(data, piece.row, CONTEXT_BINS, shift), data.bin_size
    first = piece.first * bin_size
    return codes[first : first + (piece.count + 2 * CONTEXT_BINS) * bin_size]


def _targets(data: SpeciesData, piece: Piece) -> np.ndarray:
    return data.targets(piece.row)[piece.first : piece.first + piece.count].astype(np.float32)


def fit_cnn(
    data: SpeciesData,
    strands: Strands,
    minutes: float,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> CnnBaseline:
    """Train for so long on training windows; the state that is best on validation is kept.

    Adam with a rate that falls to 0 over the time, Poisson loss, shifts and both strands as in
    pretraining. Raises UserError where a bin is no
    power of two, or there are no training or validation windows.
    """
    if data.bin_size & (data.bin_size - 1):
        raise UserError(f"{data.path}: --baseline cnn needs bins of a power of two, not "
                        f"{data.bin_size} bp")  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PlainCnn(data.bin_size, len(strands.means)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=1e-3)
    batches = _training_batches(data, np.random.default_rng(seed))
    means = torch.from_numpy(strands.means)
    best, best_score, checks, began = copy.deepcopy(model.state_dict()), -np.inf, 0, time.time()
    title = f"{data.name}, CNN"
    with tqdm(total=round(60 * minutes), unit="s", desc=title, disable=None, leave=False) as bar:
        while (done := (time.time() - began) / (60 * minutes)) < 1 or checks < 1:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * max(1 - done, 0)
            codes, targets = next(batches)
            _step(model.train(), optimizer, codes.to(device), (targets / means).to(device))
            bar.update(min(round(60 * minutes * done), bar.total) - bar.n)
            if done * CHECKS >= checks + 1:
                checks += 1
                if (score := _score(model, data, means)) > best_score:
                    best, best_score = copy.deepcopy(model.state_dict()), score
    if _score(model, data, means) <= best_score:  # at its end
        model.load_state_dict(best)
    return CnnBaseline(data, strands, model.eval(), minutes)


def _step(model: PlainCnn, optimizer: torch.optim.Optimizer, codes: Tensor, target: Tensor) -> None:
    measured = ~target.isnan()
    rate, target = model(codes)[measured], target[measured]
    loss = functional.poisson_nll_loss(rate, target, log_input=False)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _training_batches(
    data: SpeciesData, random: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end: codes uint8 (B, L), targets float32 (B, N, T) in stored units."""
    pieces = pieces_of(data, data.rows("train").tolist())
    bins = min(piece.count for piece in pieces)
    while True:
        order = random.permutation(len(pieces))
        for i in range(0, len(order), PIECES_A_STEP):
            drawn = [_augmented(data, replace(pieces[j], count=bins), random)
                     for j in order[i : i + PIECES_A_STEP]]  # fmt: skip
            codes, targets = zip(*drawn, strict=True)
            yield torch.from_numpy(np.stack(codes)), torch.from_numpy(np.stack(targets))


def _augmented(
    data: SpeciesData, piece: Piece, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    codes, targets = _codes(data, piece, int(random.integers(-3, 4))), _targets(data, piece)
    if random.integers(2):
        return flip(codes, targets, data.strand_pair)
    return codes, targets


@torch.no_grad()
def _score(model: PlainCnn, data: SpeciesData, means: Tensor) -> float:
    """Mean Pearson in log1p over the tracks, on some validation windows."""
    pieces = pieces_of(data, data.rows("valid").tolist())
    chosen = np.linspace(0, len(pieces) - 1, min(len(pieces), VALIDATION_PIECES)).astype(int)
    moments = PearsonMoments(len(means))
    model.eval()
    for i in chosen:
        target = torch.from_numpy(_targets(data, pieces[i])) / means
        rate = _rates(model, _codes(data, pieces[i]))
        moments.update(rate.log1p(), target.clamp(min=0).log1p())
    return float(moments.pearson().nanmean())
