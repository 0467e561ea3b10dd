"""Held-out windows that have a homologous training window, in another species or in their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacescale.dataset.reader import SpeciesData
from spacescale.errors import UserError
from spacescale.genome.aliases import match_styles, read_aliases, shorten
from spacescale.splits.homology import Links, NamedRegions, read_links
from spacescale.splits.regions import Regions

# Of pieces of contigs the dataset does not know the contig's length: longer than any.
_UNKNOWN_BP = 10**11


@dataclass(frozen=True)
class HomologyLeak:
    """Windows of a held-out split of `species` homologous to training windows of `other`.

    leaking: of so many windows; most_bp: aligned bp of the worst, which is `worst`.
    """

    species: str
    split: str
    other: str
    leaking: int
    windows: int
    most_bp: int
    worst: str

    def __str__(self) -> str:
        return (
            f"{self.species} {self.split}: {self.leaking} of {self.windows} windows have a "
            f"homologous training window in {self.other}"
            + (f", worst {self.worst} with {self.most_bp:,} aligned bp" if self.leaking else "")
        )


def homology_leaks(
    datasets: Mapping[str, SpeciesData],
    homology: Sequence[tuple[str, str, Path]],
    min_aligned: int = 1,
    aliases: Mapping[str, Path] | None = None,
    match_names: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[HomologyLeak]:
    """Compare the targets of every held-out split with the training targets they are aligned to.

    homology: (species, species, chain, net or pair table), looked at in both directions; a species
    with itself is its duplications. min_aligned: bp of a window's target that must be aligned to
    training targets for it to count; a base aligned several times counts several times. aliases,
    match_names: contig names of the files, as `NamedRegions` has them. tell: called with a line for
    each data set that lacks contigs of the files, whose homology is passed over. One entry for each
    direction and held-out split, of 0 windows, too. Raises UserError for files that cannot be read
    or do not belong to the datasets, and a min_aligned below 1, which every window would reach.
    """
    if min_aligned < 1:
        raise UserError(f"min_aligned {min_aligned} must be at least 1")
    targets = {
        name: _Targets(data, (aliases or {}).get(name), match_names)
        for name, data in datasets.items()
    }
    leaks = []
    for first, second, path in homology:
        for name in (first, second):
            if name not in targets:
                raise UserError(
                    f"homology {first}:{second}={path}: there is no dataset of {name!r}, only of "
                    f"{', '.join(targets)}"
                )
        ours, theirs = targets[first], targets[second]
        links = read_links(path, ours.named, theirs.named)
        back = Links(links.second, links.first, links.bases)
        if first == second:
            both = zip(_arrays(links), _arrays(back), strict=True)
            links = Links(*(np.append(one, other) for one, other in both))
        leaks += ours.leaks_from(theirs, links, min_aligned)
        if first != second:
            leaks += theirs.leaks_from(ours, back, min_aligned)
    for name, of_species in targets.items():
        if skipped := of_species.named.skipped:
            lengths = of_species.named.regions.lengths
            cure = "; --aliases auto matches some" if match_styles(skipped, lengths) else ""
            tell(
                f"{name}: homology of contigs that hold no window is passed over: "
                f"{shorten(list(skipped))}{'' if match_names else cure}"
            )
    return leaks


def _arrays(links: Links) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return links.first, links.second, links.bases


class _Targets:
    """The targets of a dataset as regions: cut wherever one begins or ends."""

    def __init__(self, data: SpeciesData, aliases: Path | None, match_names: bool):
        self.data = data
        windows = data.windows
        pieces = {contig.name for contig in data.manifest.contigs if not contig.whole}
        lengths = {
            contig.name: _UNKNOWN_BP if contig.name in pieces else contig.length
            for contig in data.manifest.contigs
        }
        cuts = {
            name: np.append(windows.start[here], windows.end[here])
            for name in lengths
            if (here := windows.chrom == name).any()
        }
        regions = Regions(lengths, cuts)
        names = read_aliases(aliases, lengths) if aliases else {}
        self.named = NamedRegions(data.name, regions, names, match_names, frozenset(pieces))
        offsets = np.array([regions.offset_of(str(name)) for name in windows.chrom])
        self.first = regions.of(windows.start + offsets)
        self.end = regions.of(windows.end + offsets - 1) + 1

    def _covered_regions(self, rows: np.ndarray) -> np.ndarray:
        """Return whether each region lies in one of these windows, bool [regions]."""
        steps = np.zeros(len(self.named.regions) + 1, dtype=np.int64)
        np.add.at(steps, self.first[rows], 1)
        np.add.at(steps, self.end[rows], -1)
        return np.cumsum(steps)[:-1] > 0

    def leaks_from(self, other: "_Targets", links: Links, min_aligned: int) -> list[HomologyLeak]:
        """Return the leak into each held-out split; links go from our regions to theirs."""
        trained = other._covered_regions(np.flatnonzero(other.data.windows.split == "train"))
        known = trained[links.second]
        aligned = np.zeros(len(self.named.regions) + 1, dtype=np.int64)
        np.add.at(aligned, links.first[known] + 1, links.bases[known])
        before = np.cumsum(aligned)
        leaks = []
        for split in self.data.manifest.num_windows:
            if split != "train":
                rows = self.data.rows(split)
                bases = before[self.end[rows]] - before[self.first[rows]]
                leaks.append(self._leak(split, other.data.name, rows, bases, min_aligned))
        return leaks

    def _leak(
        self, split: str, other: str, rows: np.ndarray, bases: np.ndarray, min_aligned: int
    ) -> HomologyLeak:
        place = self.data.place(int(rows[bases.argmax()]))
        leaking = int(np.count_nonzero(bases >= min_aligned))
        return HomologyLeak(
            self.data.name, split, other, leaking, rows.size, int(bases.max()), place
        )
