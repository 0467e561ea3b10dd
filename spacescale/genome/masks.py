"""BEDs of stretches that are not to be trusted: artefacts, unmappable bases, assembly gaps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spacescale.genome.interval_tracks import IntervalTrack
from spacescale.genome.interval_values import IntervalValues, union
from spacescale.genome.intervals import Interval

# As basenji and baskerville do: reads at the border of an artefact are artefacts, too.
BLACKLIST_MARGIN_BP = 20
# A bin of which less than this share is unmappable counts as mappable, as in basenji.
_UNMAPPABLE_BIN_SHARE = 0.1
_MAX_UNMAPPABLE_SHARE = 0.5


@dataclass(frozen=True)
class Mask:
    """Stretches of a genome, joined where they overlap: {contig of the genome: stretches}."""

    by_contig: dict[str, IntervalValues]

    def touches(self, chrom: str, start: int, end: int) -> bool:
        """Tell whether any base of an interval is masked; 0-based half-open, bp."""
        return chrom in self.by_contig and self.by_contig[chrom].touch(start, end)

    def bases(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Return bool [end - start], True where masked."""
        if chrom not in self.by_contig:
            return np.zeros(end - start, dtype=bool)
        return self.by_contig[chrom].per_base(start, end, 0.0) > 0


@dataclass(frozen=True)
class Masks:
    """What the user masks; an empty mask changes nothing.

    blacklist: artefacts, BLACKLIST_MARGIN_BP wider on each side than in the file. unmappable:
    bases that no read can be placed on. gaps: of the assembly.
    """

    blacklist: Mask = Mask({})
    unmappable: Mask = Mask({})
    gaps: Mask = Mask({})

    def unmappable_bins(self, target: Interval, bin_size: int) -> np.ndarray:
        """Return bool [bins]: the bins of bin_size bp of which a tenth or more is unmappable."""
        if not self.unmappable.touches(target.chrom, target.start, target.end):
            return np.zeros((target.end - target.start) // bin_size, dtype=bool)
        bases = self.unmappable.bases(target.chrom, target.start, target.end)
        return bases.reshape(-1, bin_size).mean(axis=1) >= _UNMAPPABLE_BIN_SHARE

    def in_gap(self, target: Interval) -> bool:
        """Tell whether a target interval has a base in a gap."""
        return self.gaps.touches(target.chrom, target.start, target.end)

    def is_unmappable(self, target: Interval, bin_size: int) -> bool:
        """Tell whether more than half of the bins of a target interval are unmappable."""
        return bool(self.unmappable_bins(target, bin_size).mean() > _MAX_UNMAPPABLE_SHARE)


def masks_of(beds: Mapping[str, IntervalTrack], aliases: Mapping[str, str]) -> Masks:
    """Return the masks of BED files as `read_peaks` reads them, by the names of Masks' fields.

    aliases: {name in the files: name in the genome}, where they differ.
    """
    masks = {}
    for name, bed in beds.items():
        margin = BLACKLIST_MARGIN_BP if name == "blacklist" else 0
        masks[name] = Mask(
            {
                aliases.get(contig, contig): _widen(stretches, margin)
                for contig, stretches in bed.by_contig.items()
            }
        )
    return Masks(**masks)


def _widen(stretches: IntervalValues, margin_bp: int) -> IntervalValues:
    starts = np.maximum(stretches.starts - margin_bp, 0)
    return union(IntervalValues(starts, stretches.ends + margin_bp, stretches.values))
