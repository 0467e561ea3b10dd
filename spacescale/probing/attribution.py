"""Which bases a probe's answers rest on, and whether one-hot networks rest theirs on the same.

Shapes: N sequences, B of a batch, L bp, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm import tqdm

from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.shuffles import dinucleotide_shuffle
from spacescale.model.layers import one_hot
from spacescale.predict.attribution import Score, corrected, gradients, mutagenesis, sequence_of
from spacescale.probing.features import Trunk
from spacescale.tasks.resampling import DRAWS, Interval, draw_weights, middle_of
from spacescale.tasks.task import Examples, Kind

BATCH = 64
SHUFFLES = 300  # into which a pattern is put


@dataclass(frozen=True)
class Explained:
    """A model whose answers are explained.

    score_of: a sequence's length and row → its score, one number: of classes the log-odds of the
    last, else the mean of all outputs before they become answers.
    """

    name: str
    score_of: Callable[[int, int], Score]


def one_number(kind: Kind, outputs: Tensor) -> Tensor:
    """Outputs (B, C) → what is explained (B,)."""
    if kind == "classes":
        return outputs[:, -1] - outputs[:, :-1].logsumexp(1)
    return outputs.mean(1)


def explain_probe(
    name: str, kind: Kind, trunk: Trunk, network: nn.Module, by_position: bool,
    longest: int, as_is: int | None,
) -> Explained:  # fmt: skip
    """A head through the frozen trunk. by_position: it takes all positions, not their mean.

    longest: bp of any sequence. as_is: as in `write_features`.
    """
    (width, _), bin_size = trunk.width(), trunk.space.config.bin_size

    def score_of(length: int, row: int) -> Score:
        read = length if length == as_is else -(-length // bin_size) * bin_size
        nothing, rows = np.full((1, read), dna.N, dtype=np.uint8), np.array([row])
        flanks = [trunk.feeder.fed(nothing, rows, draw) for draw in range(trunk.feeder.draws)]
        around = [_bases(torch.from_numpy(one)).to(trunk.device) for one in flanks]
        first = trunk.feeder.first(read)

        def score(sequences: Tensor) -> Tensor:
            bases = _bases(sequences).to(trunk.device)
            found = []
            for shown in around:
                left, right = shown[..., :first], shown[..., first + length :]
                parts = [part.expand(len(bases), -1, -1) for part in (left, right)]
                whole = torch.cat([parts[0], bases, parts[1]], dim=2)
                found.append(trunk.features(whole, read, width)[:, : -(-length // width)])
            features = torch.stack(found).mean(0)  # (B, P, C)
            if not by_position:
                return one_number(kind, network(features.mean(1)))
            missing = -(-longest // width) - features.shape[1]
            return one_number(kind, network(pad(features.transpose(1, 2), (0, missing))))

        return score

    return Explained(name, score_of)


def explain_network(
    name: str, kind: Kind, network: nn.Module, longest: int, device: torch.device
) -> Explained:
    """A network on one-hot bases of sequences that are filled up to `longest` bp."""

    def score_of(length: int, row: int) -> Score:
        def score(sequences: Tensor) -> Tensor:
            bases = _bases(sequences).to(device)
            return one_number(kind, network(pad(bases, (0, longest - length))))

        return score

    return Explained(name, score_of)


def _bases(sequences: Tensor) -> Tensor:
    """Codes (B, L) or bases (B, 4, L) → bases."""
    return sequences if sequences.is_floating_point() else one_hot(sequences, torch.float32)


def gradient_map(score: Score, codes: np.ndarray) -> np.ndarray:
    """Corrected gradient × input, float32 (L,); 0 at an N."""
    bases = torch.from_numpy(sequence_of(codes))[None]
    found = corrected(gradients(score, bases)) * bases
    return found[0].sum(0).numpy()


def mutation_map(score: Score, codes: np.ndarray) -> np.ndarray:
    """How much a base gives over the mean of the three in its place, float32 (L,); 0 at an N."""
    changes = mutagenesis(score, codes, 0, len(codes), BATCH)
    return np.where(codes == dna.N, 0, -changes.sum(0) / 3)


MAPS = {"gradient": gradient_map, "mutations": mutation_map}


def attribution_maps(
    models: Sequence[Explained], examples: Examples, rows: Sequence[int]
) -> dict[str, list[np.ndarray]]:
    """Maps float32 (L,) of rows, by model and method."""
    found: dict[str, list[np.ndarray]] = {
        f"{model.name}, {method}": [] for method in MAPS for model in models
    }
    for row in tqdm(rows, unit="sequence", desc="explaining", disable=None, leave=False):
        codes = examples.codes[row]
        for model in models:
            score = model.score_of(len(codes), row)
            for method, explain in MAPS.items():
                found[f"{model.name}, {method}"].append(explain(score, codes))
    return found


@dataclass(frozen=True)
class Agreement:
    """Pearson of two maps, the mean over sequences and its interval.

    undefined: sequences of which one map is constant; they do not count.
    """

    first: str
    second: str
    mean: float
    interval: Interval
    undefined: int


Pairs = dict[tuple[str, str], np.ndarray]


def pearson_of(maps: Mapping[str, Sequence[np.ndarray]]) -> Pairs:
    """Of every pair of maps: of each sequence, float64 (N,); NaN where one of both is constant."""
    return {
        (first, second): np.array([*map(_pearson, maps[first], maps[second])])
        for first, second in combinations(maps, 2)
    }


def agreements(pearson: Pairs, groups: Sequence[str]) -> list[Agreement]:
    """Of every pair of maps; sequences of one group are drawn together."""
    return [
        Agreement(*pair, *_mean(values, groups), int(np.isnan(values).sum()))
        for pair, values in pearson.items()
    ]


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (values - values.mean(dtype=np.float64) for values in (x, y))
    size = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / size) if size > 0 else np.nan


def _mean(values: np.ndarray, groups: Sequence[str] = ()) -> tuple[float, Interval]:
    """Of those that are defined, with its interval."""
    known = np.flatnonzero(~np.isnan(values))
    if not known.size:
        return np.nan, Interval(np.nan, np.nan)
    values, of = values[known], [groups[row] for row in known.tolist()] if groups else ()
    draws = [weights @ values / weights.sum(1)
             for weights in draw_weights(len(values), of, 0, DRAWS)]  # fmt: skip
    return float(values.mean()), middle_of(np.concatenate(draws))


@dataclass(frozen=True)
class Importance:
    """What a pattern adds to the score of shuffled sequences, and the interval of that mean."""

    model: str
    pattern: str
    mean: float
    interval: Interval


def global_importance(
    models: Sequence[Explained], examples: Examples, patterns: Sequence[str], seed: int = 0
) -> list[Importance]:
    """Put patterns into the middle of SHUFFLES shuffled sequences, and take the mean difference.

    The sequences are drawn of a split and keep their dinucleotides (Koo et al. 2021). Raises
    UserError for a pattern that is no DNA or longer than the shortest of them.
    """
    random = np.random.default_rng(seed)
    rows = random.integers(len(examples), size=SHUFFLES).tolist()
    shuffles = [dinucleotide_shuffle(examples.codes[row], random) for row in rows]
    shortest, found = min(map(len, shuffles)), []
    for pattern in patterns:
        letters = dna.encode(pattern, "--patterns")
        if len(letters) > shortest:
            raise UserError(f"--patterns {pattern}: longer than a sequence of {shortest} bp")
        for model in models:
            changes = []
            for row, codes in zip(rows, shuffles, strict=True):
                at = (len(codes) - len(letters)) // 2
                with_it = codes.copy()
                with_it[at : at + len(letters)] = letters
                with torch.inference_mode():
                    both = torch.from_numpy(np.stack([codes, with_it]))
                    before, after = model.score_of(len(codes), row)(both).tolist()
                changes.append(after - before)
            found.append(Importance(model.name, pattern, *_mean(np.array(changes))))
    return found


def agreement_lines(number: int, found: Sequence[Agreement]) -> list[str]:
    """As a table in Markdown. number: of sequences."""
    return [
        f"Attributions of {number} test sequences: corrected gradient × input, and mutations "
        "of every base.",
        "",
        "| map | and map | Pearson, mean over sequences | 95 % interval | undefined |",
        "|---|---|---|---|---|",
        *(
            f"| {one.first} | {one.second} | {one.mean:.3f} | {one.interval.low:.3f} to "
            f"{one.interval.high:.3f} | {one.undefined or ''} |"
            for one in found
        ),
    ]


def importance_lines(found: Sequence[Importance]) -> list[str]:
    """As a table in Markdown."""
    return [
        f"What a pattern adds in the middle of {SHUFFLES} shuffled test sequences:",
        "",
        "| pattern | model | mean difference | 95 % interval |",
        "|---|---|---|---|",
        *(
            f"| {one.pattern} | {one.model} | {one.mean:+.3f} | {one.interval.low:+.3f} to "
            f"{one.interval.high:+.3f} |"
            for one in found
        ),
    ]
