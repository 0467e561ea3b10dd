"""Which regions of genomes are homologous: files of alignments against genomes cut into regions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spacescale.errors import UserError
from spacescale.genome.aliases import (
    MAX_MISFIT_SHARE,
    auto_aliases,
    describe_unknown,
    match_styles,
)
from spacescale.splits.alignments import Aligned, Side, read_alignments
from spacescale.splits.regions import Regions

# Pieces gathered before they are cut at the edges of regions: whole-genome chains hold millions.
_BATCH = 500_000


@dataclass(frozen=True)
class Links:
    """Pairs of homologous regions, each pair once, int64 [links].

    first, second: region numbers in the one and the other genome; bases: aligned bp between them,
    summed over all alignments.
    """

    first: np.ndarray
    second: np.ndarray
    bases: np.ndarray

    def of_at_least(self, bases: int) -> "Links":
        """Return the links of so many aligned bp."""
        enough = self.bases >= bases
        return Links(self.first[enough], self.second[enough], self.bases[enough])


@dataclass
class NamedRegions:
    """The regions of a species, and how its contigs are called in other files.

    aliases: {other name: name}; match: names that differ only in style are one. unsure: contigs
    whose true length is not known and not compared. spare: a contig of another length is passed
    over, as long as such contigs hold few of the bases; else it is refused.
    met, skipped: contigs of files that the genome has and lacks, with how often they occurred.
    misfits: {contig of a file: the genome's contig, of another length, and what to tell of it}.
    """

    species: str
    regions: Regions
    aliases: Mapping[str, str] = field(default_factory=dict)
    match: bool = False
    unsure: frozenset[str] = frozenset()
    spare: bool = False
    met: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    misfits: dict[str, tuple[str, str]] = field(default_factory=dict)
    _names: dict[Side, str | None] = field(default_factory=dict)

    def offset_of(self, side: Side, end: int, place: str) -> int | None:
        """Return where the contig begins on the regions' axis; None if the genome lacks it.

        Raises UserError where the file gives the contig another length or goes beyond it.
        """
        if side not in self._names:
            self._names[side] = self._find(side, place)
        name = self._names[side]
        if name is None:
            if side.name not in self.misfits:
                self.skipped[side.name] += 1
            return None
        if end > self.regions.lengths[name]:
            raise UserError(
                f"{place}: {side.name} reaches to {end} there, {name} of {self.species} has "
                f"{self.regions.lengths[name]} bp: another assembly, or the species swapped?"
            )
        self.met[name] += 1
        return self.regions.offset_of(name)

    def _find(self, side: Side, place: str) -> str | None:
        lengths = self.regions.lengths
        name = self.aliases.get(side.name, side.name)
        if name not in lengths and self.match:
            by_length = side.length and auto_aliases({name: side.length}, lengths)
            name = (by_length or match_styles([name], lengths)).get(name, name)
        if name not in lengths:
            return None
        if name not in self.unsure and side.length not in (None, lengths[name]):
            text = (
                f"{place}: {side.name} has {side.length} bp there, {name} of {self.species} has "
                f"{lengths[name]}"
            )
            self.misfits[side.name] = name, text
            if not self.spare:
                raise self._other_assembly()
            return None
        return name

    def _other_assembly(self) -> UserError:
        _, text = next(iter(self.misfits.values()))
        return UserError(f"{text}: another assembly, or the species swapped?")

    def refuse_unmatched(self, path: Path) -> None:
        """Raise UserError when a file names no contig of the genome, or many of another length."""
        lengths = self.regions.lengths
        bases = sum(lengths[name] for name in {name for name, _ in self.misfits.values()})
        if bases > MAX_MISFIT_SHARE * (bases + sum(lengths[name] for name in self.met)):
            raise self._other_assembly()
        if not self.met:
            unknown = describe_unknown(list(self.skipped), lengths, not self.match)
            raise UserError(f"{path} names no contig of {self.species}: {unknown}")


def read_links(path: Path, first: NamedRegions, second: NamedRegions) -> Links:
    """Find the homologous regions of two species in a homology file; or of one, given twice.

    Contigs that a genome lacks are passed over and counted as skipped. Raises UserError as
    `read_alignments` does, for contigs of another length, for coordinates beyond a contig, and
    where the file names no contig of a genome.
    """
    reader = _LinkReader(first, second)
    for aligned in read_alignments(path):
        reader.add(aligned)
    links = reader.finish()
    first.refuse_unmatched(path)
    second.refuse_unmatched(path)
    return links


class _LinkReader:
    """Gathers gapless pieces on the axes of both genomes, and cuts them batch by batch."""

    def __init__(self, first: NamedRegions, second: NamedRegions):
        self._first, self._second = first, second
        self._pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._num_pieces = 0
        self._found: list[tuple[np.ndarray, np.ndarray]] = []  # links not yet summed up
        self._num_found = 0

    def add(self, aligned: Aligned) -> None:
        end = int((aligned.starts + aligned.sizes).max())
        other_end = int((aligned.other_starts + aligned.other_sizes).max())
        offset = self._first.offset_of(aligned.first, end, aligned.place)
        other_offset = self._second.offset_of(aligned.second, other_end, aligned.place)
        if offset is None or other_offset is None:
            return
        starts, others = aligned.starts + offset, aligned.other_starts + other_offset
        if not aligned.gapless:
            ends = starts + aligned.sizes, others + aligned.other_sizes
            for region in zip(starts, ends[0], others, ends[1], strict=True):
                self._link_all(*(int(position) for position in region))
            return
        reverse = np.full(starts.size, aligned.reverse)
        self._pieces.append((starts, others, aligned.sizes, reverse))
        self._num_pieces += starts.size
        if self._num_pieces >= _BATCH:
            self._link_pieces()

    def finish(self) -> Links:
        self._link_pieces()
        keys, bases = self._summed()
        first, second = np.divmod(keys, len(self._second.regions))
        return Links(first, second, bases)

    def _link_all(self, start: int, end: int, other_start: int, other_end: int) -> None:
        """Link every region that the one interval touches to every one the other touches."""
        ours, bases = _touched(self._first.regions, start, end)
        theirs, other_bases = _touched(self._second.regions, other_start, other_end)
        both = np.minimum(bases[:, None], other_bases[None, :]).ravel()
        self._add_links(np.repeat(ours, theirs.size), np.tile(theirs, ours.size), both)

    def _link_pieces(self) -> None:
        if not self._pieces:
            return
        starts, others, sizes, reverse = (
            np.concatenate(arrays) for arrays in zip(*self._pieces, strict=True)
        )
        self._pieces, self._num_pieces = [], 0
        ours, theirs, bases = self._first.regions, self._second.regions, []
        found_ours, found_theirs = [], []
        while starts.size:
            region = ours.of(starts)
            tip = np.where(reverse, others + sizes - 1, others)  # the base that `starts` meets
            other = theirs.of(tip)
            room = np.where(reverse, tip - theirs.edges[other] + 1, theirs.edges[other + 1] - tip)
            taken = np.minimum(np.minimum(sizes, room), ours.edges[region + 1] - starts)
            found_ours.append(region)
            found_theirs.append(other)
            bases.append(taken)
            rest = taken < sizes
            others = np.where(reverse, others, others + taken)[rest]
            starts, sizes, reverse = (starts + taken)[rest], (sizes - taken)[rest], reverse[rest]
        self._add_links(*(np.concatenate(arrays) for arrays in (found_ours, found_theirs, bases)))

    def _add_links(self, ours: np.ndarray, theirs: np.ndarray, bases: np.ndarray) -> None:
        self._found.append((ours * len(self._second.regions) + theirs, bases))
        self._num_found += ours.size
        if self._num_found >= 4 * _BATCH:
            self._found = [self._summed()]
            self._num_found = 0

    def _summed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each pair of regions once, as one number, and its bases."""
        none = np.zeros(0, dtype=np.int64)
        keys = np.concatenate([none, *(keys for keys, _ in self._found)])
        bases = np.concatenate([none, *(bases for _, bases in self._found)])
        once, index = np.unique(keys, return_inverse=True)
        summed = np.zeros(once.size, dtype=np.int64)
        np.add.at(summed, index, bases)
        return once, summed


def _touched(regions: Regions, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the regions that an interval of the axis touches, and over how many bp."""
    first, last = regions.of(np.array([start, end - 1])).tolist()
    numbers = np.arange(first, last + 1)
    lows = np.maximum(regions.edges[numbers], start)
    return numbers, np.minimum(regions.edges[numbers + 1], end) - lows
