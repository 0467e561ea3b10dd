"""Targets below 0 are refused where training begins: the Poisson loss has no minimum for them.

The loss p - y log p falls without end as p goes to 0 where y < 0, so such a track would train
towards nothing, without a word.
"""

from collections.abc import Iterable

import numpy as np

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.aliases import shorten
from spacescale.genome.transforms import SIGN_CURE


def refuse_negative_tracks(datasets: Iterable[SpeciesData]) -> None:
    """Raise UserError naming the tracks that their table says have targets below 0.

    Of datasets whose table does not count them only a mean below 0 tells; see
    `refuse_negative_window` for the rest.
    """
    for data in datasets:
        named = [track.identifier for track in data.tracks if track.negative or track.mean < 0]
        if named:
            raise _refusal(f"{data.path}: targets below 0 in {_describe_tracks(named)}")


def refuse_negative_window(data: SpeciesData, row: int, targets: np.ndarray) -> None:
    """Raise UserError naming window and tracks of the targets, float16 [bins, tracks], below 0."""
    # As integers: a fifth of the time, and only -0 and NaN can look negative without being so.
    if targets.size and targets.view(np.int16).min() < 0 and (below := targets < 0).any():
        named = [data.tracks[i].identifier for i in np.flatnonzero(below.any(axis=0))]
        raise _refusal(
            f"{data.path}: row {row} ({data.place(row)}) has targets below 0 in "
            f"{_describe_tracks(named)}"
        )


def _describe_tracks(names: list[str]) -> str:
    return f"track{'s' if len(names) > 1 else ''} {shorten(names)}"


def _refusal(what: str) -> UserError:
    return UserError(
        f"{what}; the Poisson loss has no minimum for them. Prepare the data set again: {SIGN_CURE}"
    )
