"""Deal blocks of genomes, or groups of them, to splits by a seed.

The order of dealing comes from SHA-256 of the seed and the block's name, so it depends neither on
the order of the contigs nor on the version of a random number generator.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import Genome
from spacescale.splits.regions import Regions

# A held-out split that is further from what was asked for than this is refused.
_TOLERANCE = 0.5
_ROUNDING = 1e-9


def shares_of(valid_share: float, test_share: float) -> dict[str, float]:
    """Return the share of every split; UserError unless both are in [0, 1) and leave some train."""
    for name, share in (("valid_share", valid_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise UserError(f"{name} {share} must be at least 0 and below 1")
    if valid_share + test_share >= 1:
        raise UserError(
            f"valid_share {valid_share} and test_share {test_share} leave nothing to train on"
        )
    shares = {"train": 1 - valid_share - test_share, "valid": valid_share, "test": test_share}
    return {split: share for split, share in shares.items() if share}


def random_blocks(
    genome: Genome, names: Sequence[str], block_bp: int, shares: Mapping[str, float], seed: int
) -> list[Interval]:
    """Cut the named contigs into blocks and deal them to splits; neighbours of one split join.

    Shares are shares of the bases that are not N. Raises UserError where they cannot be met.
    """
    lengths = genome.lengths
    regions = Regions.blocks({name: lengths[name] for name in names}, block_bp)
    known = np.maximum(regions.known_bases(genome), 1)
    keys = [f"{chrom}:{start}" for chrom, start, _ in regions]
    splits = deal(known[:, None], keys, shares, seed)
    require_shares(known, splits, shares, f"{len(regions)} blocks of {block_bp:,} bp")
    return joined(regions, splits)


def joined(regions: Regions, splits: Sequence[str]) -> list[Interval]:
    """Return the regions as intervals, neighbours of one split as one; '' leaves a region out."""
    intervals: list[Interval] = []
    for (chrom, start, end), split in zip(regions, splits, strict=True):
        last = intervals[-1] if intervals else None
        if last and (last.chrom, last.end, last.split) == (chrom, start, split):
            intervals[-1] = Interval(chrom, last.start, end, split)
        elif split:
            intervals.append(Interval(chrom, start, end, split))
    return intervals


def deal(
    weights: np.ndarray, keys: Sequence[str], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Return a split for each group, so that in every genome the shares are met closely.

    weights: [groups, genomes], what a group weighs in each genome, above 0 in one at least.
    keys: their names.
    Groups are taken by size, halving from class to class, and within a class in the order of
    SHA-256(seed, key). Each goes to one of the splits that still have room for it, drawn in
    proportion to that room; a group that fits nowhere goes where it overfills least.
    """
    sizes = weights / weights.sum(axis=0)
    draws = [_digest(seed, key) for key in keys]
    classes = np.floor(np.log2(sizes.sum(axis=1))).tolist()
    order = sorted(range(len(keys)), key=lambda i: (-classes[i], draws[i]))
    room = {split: [share] * weights.shape[1] for split, share in shares.items()}
    result = [""] * len(keys)
    rows = sizes.tolist()
    for i in order:
        split = _draw_split(rows[i], room, int.from_bytes(draws[i][-8:], "big") / 2**64)
        room[split] = [left - size for left, size in zip(room[split], rows[i], strict=True)]
        result[i] = split
    return result


def _digest(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}\t{key}".encode()).digest()


def _draw_split(sizes: list[float], room: Mapping[str, list[float]], uniform: float) -> str:
    """Return the split for a group; uniform in [0, 1) is its draw."""
    slack = {
        split: min(has - need for has, need in zip(left, sizes, strict=True) if need)
        for split, left in room.items()
    }
    fitting = {
        split: sum(has * need for has, need in zip(room[split], sizes, strict=True))
        for split, left in slack.items()
        if left >= -_ROUNDING
    }
    remaining = uniform * sum(fitting.values())
    for split, weight in fitting.items():
        remaining -= weight
        if remaining < 0:
            return split
    return max(slack, key=lambda split: slack[split])


def require_shares(
    weights: np.ndarray, splits: Sequence[str], shares: Mapping[str, float], of_what: str
) -> None:
    """Refuse a deal that leaves a held-out split empty or far from its share.

    weights: [groups] of one genome. Raises UserError with what was asked for and what came out.
    """
    got = shares_met(weights, splits)
    for split, share in shares.items():
        if split != "train" and abs(got.get(split, 0) - share) > _TOLERANCE * share:
            raise UserError(
                f"{split}_share {share:g} cannot be met: {of_what} give {got.get(split, 0):.3f}; "
                "choose smaller blocks or another share"
            )
    if not got.get("train"):
        raise UserError(f"{of_what} leave nothing to train on; choose smaller blocks")


def shares_met(weights: np.ndarray, splits: Sequence[str]) -> dict[str, float]:
    """Return the share of the weight that each split got."""
    names = np.array(splits)
    total = weights.sum()
    return {name: float(weights[names == name].sum() / total) for name in sorted(set(splits))}
