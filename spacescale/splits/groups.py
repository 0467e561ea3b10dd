"""Groups of homologous blocks across genomes, and their deal to splits without a leak.

Blocks of all genomes are numbered through, genome after genome.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spacescale.splits.dealing import deal
from spacescale.splits.homology import Links
from spacescale.splits.regions import Regions


@dataclass(frozen=True)
class Blocks:
    """The blocks of several genomes and what links them.

    regions: {species: its blocks}. weights: {species: int64 [blocks], known bp, at least 1}.
    links: between block numbers of all genomes, of any number of aligned bp.
    """

    regions: Mapping[str, Regions]
    weights: Mapping[str, np.ndarray]
    links: Links

    def __len__(self) -> int:
        return sum(len(regions) for regions in self.regions.values())

    @property
    def first_block(self) -> dict[str, int]:
        """Number of each species' first block."""
        return first_blocks(self.regions)

    def weight_table(self) -> np.ndarray:
        """Return what each block weighs in each genome, float64 [blocks, genomes], summing to 1."""
        table = np.zeros((len(self), len(self.regions)))
        for column, (species, first) in enumerate(self.first_block.items()):
            weights = self.weights[species]
            table[first : first + weights.size, column] = weights / weights.sum()
        return table

    def keys(self) -> list[str]:
        """Return a name for each block that does not depend on the other blocks."""
        return [
            f"{species}\t{chrom}:{start}"
            for species, regions in self.regions.items()
            for chrom, start, _ in regions
        ]


def first_blocks(regions: Mapping[str, Regions]) -> dict[str, int]:
    """Return the number of each species' first block, when all are numbered through."""
    sizes = [len(blocks) for blocks in regions.values()]
    return dict(zip(regions, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))


def connected(num_blocks: int, links: Links) -> np.ndarray:
    """Return for each block the lowest block it is linked to over any number of steps, int64."""
    parent = np.arange(num_blocks)
    while True:
        ours, theirs = parent[links.first], parent[links.second]
        apart = ours != theirs
        if not apart.any():
            return parent
        low, high = np.minimum(ours, theirs)[apart], np.maximum(ours, theirs)[apart]
        np.minimum.at(parent, high, low)
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]


def largest_share(blocks: Blocks, groups: np.ndarray) -> dict[str, float]:
    """Return {species: share of its known bases} of the largest group, by its sum over genomes."""
    weights = _group_weights(blocks.weight_table(), groups)[1]
    largest = weights[weights.sum(axis=1).argmax()].tolist()
    return dict(zip(blocks.regions, largest, strict=True))


def _group_weights(table: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each block, numbered from 0, and what each weighs in each genome."""
    names, index = np.unique(groups, return_inverse=True)
    weights = np.zeros((names.size, table.shape[1]))
    np.add.at(weights, index, table)
    return index, weights


def deal_groups(
    blocks: Blocks, groups: np.ndarray, shares: Mapping[str, float], seed: int
) -> list[str]:
    """Return a split for each block, the same throughout a group."""
    index, weights = _group_weights(blocks.weight_table(), groups)
    keys = blocks.keys()
    first_of = {group: keys[block] for block, group in reversed(list(enumerate(index.tolist())))}
    names = [first_of[group] for group in range(len(weights))]
    splits = deal(weights, names, shares, seed)
    return [splits[group] for group in index.tolist()]


def cut_groups(
    blocks: Blocks, groups: np.ndarray, links: Links, largest: float, run_bp: int
) -> np.ndarray:
    """Cut groups that weigh more than the share `largest` of a genome into runs of run_bp.

    The group's blocks in the first genome are cut along the contigs; those of the others follow
    the block they share most aligned bp with, and make runs of their own where they share none.
    Returns the new groups, int64 [blocks]. Linked blocks may then differ in
    split: see `leave_out_homologous`.
    """
    index, weights = _group_weights(blocks.weight_table(), groups)
    runs = np.where((weights.max(axis=1) > largest)[index], -1, groups)
    name = len(blocks)
    for species, first in blocks.first_block.items():
        regions = blocks.regions[species]
        own = runs[first : first + len(regions)]
        numbers = name + Regions.blocks(regions.lengths, run_bp).of(regions.edges[:-1])
        own[own < 0] = numbers[own < 0]
        name = int(numbers[-1]) + 1
        _join_closest(runs, links)
    return runs


def _join_closest(runs: np.ndarray, links: Links) -> None:
    """Give blocks without a run (-1) that of the neighbour they share most with, step by step."""
    source = np.append(links.first, links.second)
    follower = np.append(links.second, links.first)
    bases = np.append(links.bases, links.bases)
    while (ready := (runs[source] >= 0) & (runs[follower] < 0)).any():
        best = np.lexsort((source[ready], bases[ready]))  # the last one written stands
        runs[follower[ready][best]] = runs[source[ready][best]]


def leave_out_homologous(splits: Sequence[str], links: Links) -> list[str]:
    """Return the splits with '' for blocks homologous to one of a split that takes precedence.

    Test goes before valid, and valid before train, so that what is held out stays whole.
    """
    result = np.array(splits)
    for name, above in (("valid", ("test",)), ("train", ("test", "valid"))):
        for ours, theirs in ((links.first, links.second), (links.second, links.first)):
            homologous = np.isin(result[theirs], above) & (result[ours] == name)
            result[ours[homologous]] = ""
    return result.tolist()
