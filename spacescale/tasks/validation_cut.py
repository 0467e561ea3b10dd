"""Where a task has no validation split: which part of its training split validates."""

from __future__ import annotations

import numpy as np

from spacescale.errors import UserError
from spacescale.tasks.duplicates import sequence_numbers
from spacescale.tasks.task import Examples, Kind


def cut_validation(
    train: Examples, kind: Kind, share: float, seed: int
) -> tuple[Examples, Examples]:
    """Split training sequences in two: those that still train, and those that validate.

    share: of the rows, of each class where there are classes, at most; the same for the same seed.
    What is one sequence on either strand, or one group, stays together, and counts for the class
    of its first row. Raises UserError for a share that is not between 0 and 1 or that no group
    fits into.
    """
    if not 0 < share < 1:
        raise UserError(f"valid_share {share}: expected more than 0 and less than 1")
    together = joint_groups(train)
    _, first_rows, sizes = np.unique(together, return_index=True, return_counts=True)
    strata = train.targets[first_rows] if kind == "classes" else np.zeros(sizes.size, np.int64)
    order = np.random.default_rng(seed).permutation(sizes.size)
    chosen: list[int] = []
    for stratum in np.unique(strata):
        groups = order[strata[order] == stratum]
        chosen += _filled(groups, sizes, share)
    validates = np.isin(together, chosen)
    if not validates.any():
        raise UserError(
            f"valid_share {share} of {len(train)} training sequences holds no whole group of equal "
            "sequences; expected a larger share, or a file for validation"
        )
    return train.take(np.flatnonzero(~validates)), train.take(np.flatnonzero(validates))


def joint_groups(examples: Examples) -> np.ndarray:
    """Numbers int64 (N,) from 0 on, one for all that belongs together.

    That are equal sequences on either strand and sequences of one group, and what these join.
    """
    (numbers,) = sequence_numbers([examples], strands=True)
    if not examples.groups:
        return numbers
    group_of = {group: number for number, group in enumerate(dict.fromkeys(examples.groups))}
    groups = np.array([group_of[group] for group in examples.groups])
    while True:  # each round, what shares a number or a group takes the lowest number among them
        lowest = _lowest(_lowest(numbers, groups), numbers)
        if (lowest == numbers).all():
            return np.unique(lowest, return_inverse=True)[1]
        numbers = lowest


def _lowest(numbers: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The lowest number of each group, for each of its rows."""
    lowest = np.full(groups.max() + 1, numbers.size)
    np.minimum.at(lowest, groups, numbers)
    return lowest[groups]


def _filled(groups: np.ndarray, sizes: np.ndarray, share: float) -> list[int]:
    """Groups in their order that fit into a share of all their rows; never all of the rows."""
    total = int(sizes[groups].sum())
    room = min(round(share * total), total - 1)
    chosen = []
    for group in groups.tolist():
        if sizes[group] <= room:
            chosen.append(group)
            room -= int(sizes[group])
    return chosen
