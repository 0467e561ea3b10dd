"""How well a model says what stood where tokens were hidden, per species and vocabulary.

Shapes: B rows of N tokens, M hidden tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from spacescale.dataset.species_genome import SpeciesGenome
from spacescale.dataset.token_windows import MaskedRow, RowMaker, collate, scored_rows
from spacescale.objectives.objective import Stopped
from spacescale.parallel import comm
from spacescale.tokens.masking import IGNORED
from spacescale.tokens.vocabulary import Name

TokenModel = Callable[[Tensor, Tensor, Tensor], Tensor]  # an Encoder, or the engine around it


@dataclass(frozen=True)
class TokenScore:
    """What was said of hidden tokens, added up: nats lost, tokens hit, tokens, and their bases.

    bases: those that no visible token spells, of each token (`RowMaker.hidden_bases`).
    """

    nats: float
    hits: float
    tokens: float
    bases: float

    @property
    def loss(self) -> float:
        """Nats per hidden token; NaN without any."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def accuracy(self) -> float:
        """Share of hidden tokens that were held most likely; NaN without any."""
        return self.hits / self.tokens if self.tokens else math.nan

    @property
    def bits_per_base(self) -> float:
        """Bits per hidden base; NaN without any.

        Who knows nothing has 2 of k-mers, and more of a BPE, whose words are not of one length.
        K-mers share bases, so theirs are not the bits that a base holds.
        """
        return self.nats / math.log(2) / self.bases if self.bases else math.nan

    def values(self) -> dict[str, float]:
        """The three measures by name."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "bits_per_base": self.bits_per_base,
        }


def score_split(
    model: TokenModel,
    genome: SpeciesGenome,
    split: str,
    makers: Mapping[Name, RowMaker],
    batch_size: int,
    device: torch.device,
    most: int | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[Name, TokenScore]:
    """Score the sequences of one species and split in each vocabulary, over all ranks.

    most: sequences of each, at most, evenly spread over the split. batch_size: rows of a rank at a
    time. The model must be in evaluation mode. Raises Stopped where `stop_asked`, asked before each
    batch with the same answer on all ranks, says so, and UserError where the split has no sequence.
    """
    return {
        name: score_rows(
            model, scored_rows(genome, split, maker, most), maker, batch_size, device, stop_asked
        )
        for name, maker in makers.items()
    }


@torch.no_grad()
def score_rows(
    model: TokenModel,
    rows: Iterable[MaskedRow],
    maker: RowMaker,
    batch_size: int,
    device: torch.device,
    stop_asked: Callable[[], bool] = lambda: False,
) -> TokenScore:
    """Score rows that a maker made, the same on all ranks; otherwise as `score_split`."""
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for mine, counts in _shares(rows, batch_size):
        if stop_asked():
            raise Stopped
        sums += _score(model, mine, counts, maker, device)
    return TokenScore(*comm.add_over_ranks(sums).tolist())


def _shares(rows: Iterable[MaskedRow], batch_size: int) -> Iterator[tuple[list[MaskedRow], bool]]:
    """This rank's batches, and whether each counts.

    Every rank has as many, as ZeRO-3 requires: one for which no row is left has another's.
    """
    source, first = iter(rows), comm.rank() * batch_size
    while of_all := list(islice(source, batch_size * comm.world_size())):
        mine = of_all[first : first + batch_size]
        yield mine or of_all[:1], bool(mine)


def _score(
    model: TokenModel,
    rows: Sequence[MaskedRow],
    counts: bool,
    maker: RowMaker,
    device: torch.device,
) -> Tensor:
    """Sums (4,) float64 of a batch, as TokenScore; zeros where it does not count."""
    batch = collate(rows, [0] * len(rows), maker.vocabulary).to(device)
    selected = batch.labels != IGNORED
    logits = model(batch.ids, batch.attended, selected)  # (M, V)
    labels = batch.labels[selected]
    nats = F.cross_entropy(logits.float(), labels, reduction="none")
    hits = logits.argmax(-1) == labels
    bases = sum(maker.hidden_bases(row) for row in rows)
    return counts * torch.stack(
        [
            nats.double().sum(),
            hits.double().sum(),
            *torch.tensor([len(labels), bases], dtype=torch.float64, device=device),
        ]
    )


def logged(scores: Mapping[str, Mapping[Name, TokenScore]]) -> dict[str, float]:
    """Scores of species → vocabulary as a run logs them.

    `valid/loss` and `valid/accuracy` are means over species of their means over vocabularies, and
    `…/SPECIES` these; `valid/VOCABULARY/MEASURE/SPECIES` are not averaged.
    """
    found: dict[str, float] = {}
    overall: dict[str, list[float]] = {"valid/loss": [], "valid/accuracy": []}
    for species, by_vocabulary in scores.items():
        for kind, means in overall.items():
            measure = kind.removeprefix("valid/")
            mean = _mean([one.values()[measure] for one in by_vocabulary.values()])
            means.append(mean)
            found[f"{kind}/{species}"] = mean
        for name, score in by_vocabulary.items():
            for measure, value in score.values().items():
                found[f"valid/{name}/{measure}/{species}"] = value
    return {kind: _mean(means) for kind, means in overall.items()} | found


def _mean(values: list[float]) -> float:
    """Mean of those that are finite; NaN without any."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
