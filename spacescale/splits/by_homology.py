"""Split genomes of one or several species so that homologous blocks share a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.aliases import read_aliases
from spacescale.genome.intervals import Interval
from spacescale.genome.sequence_files import read_genome
from spacescale.splits.dealing import joined, require_shares, shares_met, shares_of
from spacescale.splits.groups import (
    Blocks,
    connected,
    cut_groups,
    deal_groups,
    first_blocks,
    largest_share,
    leave_out_homologous,
)
from spacescale.splits.homology import Links, NamedRegions, read_links
from spacescale.splits.regions import Regions


@dataclass(frozen=True)
class SplitSettings:
    """What to split and how. Lengths in bp.

    genomes: {species: FASTA or 2bit}. homology: (species, species, chain, net or pair table).
    block_bp: contigs are cut into blocks of this length, and whole blocks are dealt.
    min_aligned: aligned bp from which on two blocks belong together.
    cut_groups: groups too large for a held-out split are cut into runs of this length, and
    the training blocks at the cuts that are homologous to held-out ones are left out.
    aliases: {species: two-column file}; match_names: names that differ only in style are one.
    """

    genomes: Mapping[str, Path]
    homology: Sequence[tuple[str, str, Path]] = ()
    block_bp: int = 524_288
    seed: int = 0
    valid_share: float = 0.1
    test_share: float = 0.1
    min_aligned: int = 1
    cut_groups: int | None = None
    aliases: Mapping[str, Path] = field(default_factory=dict)
    match_names: bool = False

    def __post_init__(self):
        for name in ("block_bp", "min_aligned", "cut_groups"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")
        for first, second, path in self.homology:
            for species in (first, second):
                if species not in self.genomes:
                    raise UserError(
                        f"homology {first}:{second}={path}: there is no genome of {species!r}, "
                        f"only of {', '.join(self.genomes)}"
                    )
        if unknown := self.aliases.keys() - self.genomes.keys():
            raise UserError(f"aliases of {min(unknown)}, which is no species given as a genome")
        shares_of(self.valid_share, self.test_share)


@dataclass(frozen=True)
class SpeciesSplit:
    """The split of one species.

    intervals: stretches with their split, by contig name and position. shares: {split: share of
    the bases that are not N}, '' for what was left out. skipped: contigs of homology files that the
    genome lacks; misfits: what to tell of those that it has
    with another length.
    """

    intervals: list[Interval]
    shares: dict[str, float]
    num_blocks: int
    skipped: list[str]
    misfits: list[str]


@dataclass(frozen=True)
class GenomesSplit:
    """The splits of all species; largest: {species: share of it in the largest group of all}."""

    species: dict[str, SpeciesSplit]
    num_groups: int
    largest: dict[str, float]


def split_genomes(settings: SplitSettings) -> GenomesSplit:
    """Deal blocks, or groups of homologous blocks, to splits; see `spacescale.splits.dealing`.

    Raises UserError for files that cannot be read or do not belong together, and where homology
    ties so much together that the shares cannot be met.
    """
    blocks, named = _read(settings)
    links = blocks.links.of_at_least(settings.min_aligned)
    shares = shares_of(settings.valid_share, settings.test_share)
    groups = connected(len(blocks), links)
    largest = largest_share(blocks, groups)
    if settings.cut_groups:
        held_out = [share for split, share in shares.items() if split != "train"]
        most = min(held_out, default=1.0) / 2
        groups = cut_groups(blocks, groups, links, most, settings.cut_groups)
    splits = leave_out_homologous(deal_groups(blocks, groups, shares, settings.seed), links)
    result = {}
    for species, first in blocks.first_block.items():
        regions, weights = blocks.regions[species], blocks.weights[species]
        own = splits[first : first + len(regions)]
        try:
            require_shares(weights, own, shares, f"the {len(regions)} blocks of {species}")
        except UserError as error:
            raise UserError(f"{error}{_advice(settings, blocks)}") from None
        result[species] = SpeciesSplit(
            joined(regions, own),
            shares_met(weights, own),
            len(regions),
            sorted(named[species].skipped),
            [text for _, text in named[species].misfits.values()],
        )
    return GenomesSplit(result, np.unique(groups).size, largest)


def _read(settings: SplitSettings) -> tuple[Blocks, dict[str, NamedRegions]]:
    """Return all blocks with their links, and which contigs of homology files are in genomes."""
    named, weights = {}, {}
    for species, path in settings.genomes.items():
        genome = read_genome(path)
        regions = Regions.blocks(genome.lengths, settings.block_bp)
        weights[species] = np.maximum(regions.known_bases(genome), 1)
        file = settings.aliases.get(species)
        aliases = read_aliases(file, genome.lengths) if file else {}
        named[species] = NamedRegions(species, regions, aliases, settings.match_names, spare=True)
    regions = {species: one.regions for species, one in named.items()}
    number = first_blocks(regions)
    found = [
        (number[first], number[second], read_links(path, named[first], named[second]))
        for first, second, path in settings.homology
    ]
    links = Links(
        np.concatenate([_NO_BLOCKS, *(links.first + a for a, _, links in found)]),
        np.concatenate([_NO_BLOCKS, *(links.second + b for _, b, links in found)]),
        np.concatenate([_NO_BLOCKS, *(links.bases for _, _, links in found)]),
    )
    return Blocks(regions, weights, links), named


_NO_BLOCKS = np.zeros(0, dtype=np.int64)


def _advice(settings: SplitSettings, blocks: Blocks) -> str:
    """Say how large the largest group is, and what makes it smaller."""
    if not settings.homology:
        return ""
    bounds = [settings.min_aligned]
    while bounds[-1] * 4 < settings.block_bp:
        bounds.append(bounds[-1] * 4)
    sizes = []
    for bound in bounds:
        groups = connected(len(blocks), blocks.links.of_at_least(bound))
        sizes.append(f"{bound}: {100 * max(largest_share(blocks, groups).values()):.0f} %")
    return (
        ". Homology ties blocks together; the largest group, by --min-aligned, is "
        f"{', '.join(sizes)} of a genome. Raise --min-aligned, or cut large groups with "
        f"--cut-groups {16 * settings.block_bp}"
    )
