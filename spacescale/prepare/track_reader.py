"""Coverage of one track -> its targets in every window of a dataset."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from spacescale.dataset.schema import Source
from spacescale.files import sha256
from spacescale.genome.aliases import shorten
from spacescale.genome.contig_ends import describe_past_end
from spacescale.genome.coverage import Coverage, open_coverage
from spacescale.genome.interval_tracks import read_peaks
from spacescale.genome.intervals import Interval
from spacescale.genome.masks import Mask, masks_of
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import (
    NEGATIVE_TARGETS,
    SIGN_CURE,
    Transform,
    get_transform,
    signed,
    to_float16,
)
from spacescale.prepare.bin_summary import BinSummary
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import DatasetPlan, track_path

# What basenji's --umap_clip may be set to: in its help 0.25, by default off.
_UNMAPPABLE_PERCENTILE = 25
_BASES_AT_A_TIME = 2**19  # 2 MB of coverage, which the cache holds


@dataclass(frozen=True)
class ReadTrack:
    """What reading one track told besides its targets; track: the row of tracks.tsv.

    covered_bases: bases of the targets with a value, in bins that hold one; of them the writer
    makes track.covered, once it is known which windows stay. coverage: summed over the targets'
    bases, before any clip. bins: before any clip, too.
    """

    track: Track
    source: Source
    warnings: list[str]
    covered_bases: int
    coverage: float
    bins: BinSummary


@dataclass(frozen=True)
class WindowMasks:
    """The masks that reading needs, worked out once for all tracks.

    unmappable: the unmappable bins of each window, a bit each, uint8 [windows, bins / 8]; None
    where no mask tells.
    """

    blacklist: Mask
    unmappable: np.ndarray | None

    @classmethod
    def of(cls, options: DatasetOptions, plan: DatasetPlan) -> "WindowMasks":
        """Read the masks that the options name, for the windows of a plan."""
        beds = {name: read_peaks(path) for name, path in options.masks.items()}
        masks = masks_of(beds, plan.aliases)
        if options.unmappable is None:
            return cls(masks.blacklist, None)
        bins = [masks.unmappable_bins(window, options.bin_size) for window in plan.windows]
        return cls(masks.blacklist, np.packbits(np.stack(bins), axis=1))

    def unmappable_bins(self, rows: slice, num_bins: int) -> np.ndarray:
        """Return bool [windows, bins] of some windows."""
        if self.unmappable is None:
            return np.zeros((rows.stop - rows.start, num_bins), dtype=bool)
        return np.unpackbits(self.unmappable[rows], axis=1, count=num_bins).astype(bool)


def read_track(
    options: DatasetOptions, plan: DatasetPlan, masks: WindowMasks, track: Track
) -> tuple[np.ndarray, ReadTrack]:
    """Return the track's targets, float16 [windows, bins], and what there is to say of it.

    masks: of the windows of the plan.
    With `options.missing` "nan", bins without any measured base and unmappable bins are NaN. Else
    the first are 0, and the others are clipped at the 25th percentile of their window's bins.
    """
    path, transform = track_path(options, track), get_transform(options.transform)
    found = _read_bins(options, plan, masks, track)
    targets = transform.finish(found.targets)
    if options.missing == "zero":
        _clip_unmappable(targets, masks)
    finished = replace(
        track,
        file=path.name,
        mean=_mean(targets[_mean_rows(plan)]),
        saturated=found.saturated,
        negative=int(np.count_nonzero(targets < 0)),
    )
    covered: Counter[str] = Counter()
    for window, bases in zip(plan.windows, found.measured.tolist(), strict=True):
        covered[window.chrom] += bases
    uncovered = [chrom for chrom, bases in covered.items() if not bases]
    warnings = _warnings(finished, uncovered, found.negative)
    if found.past_end:
        warnings.append(f"track {track.identifier}: {path.name} {found.past_end}")
    summary = found.summary(plan, track)
    return targets, ReadTrack(
        finished, source_of(path), warnings, covered.total(), found.coverage, summary
    )


def look_at_track(
    options: DatasetOptions, plan: DatasetPlan, masks: WindowMasks, track: Track
) -> BinSummary:
    """Summarise a track in the windows of a plan, which may be a few of them."""
    return _read_bins(options, plan, masks, track).summary(plan, track)


@dataclass(frozen=True)
class _Bins:
    """A track as it is read. Shapes: w windows of b bins.

    targets: float16 [w, b], not finished. pooled: float32 [w, b], before clips, NaN where not
    measured. measured: int64 [w], bases with a value; zeros: how many of them are 0. saturated,
    coverage: as in Track and ReadTrack. negative: whether any base is below 0. past_end: what to
    tell of intervals past the ends of contigs.
    """

    targets: np.ndarray
    pooled: np.ndarray
    measured: np.ndarray
    zeros: int
    saturated: int
    coverage: float
    negative: bool
    past_end: str

    def summary(self, plan: DatasetPlan, track: Track) -> BinSummary:
        return BinSummary.of(plan.windows, self.pooled, self.measured, self.zeros, track)


def _read_bins(
    options: DatasetOptions, plan: DatasetPlan, masks: WindowMasks, track: Track
) -> _Bins:
    path, transform = track_path(options, track), get_transform(options.transform)
    shape = len(plan.windows), options.target_length
    targets, pooled = np.empty(shape, dtype=np.float16), np.empty(shape, dtype=np.float32)
    measured_bases = np.empty(shape[0], dtype=np.int64)
    zeros, saturated, total, negative = 0, 0, 0.0, False
    with open_coverage(path, track) as file:
        reader = _WindowReader(file, track, options, plan, masks.blacklist, transform)
        for rows in _batches(plan.windows, options.span):
            values = reader.read(plan.windows[rows]).reshape(-1, options.bin_size)
            measured = ~np.isnan(values)
            total += float(np.nansum(values, dtype=np.float64))
            negative = negative or bool((values < 0).any())
            before_clips = transform.pooled(values, track)
            bins = transform.limited(before_clips, track)
            unknown = ~measured.any(axis=1)
            if options.missing == "nan":
                unknown |= masks.unmappable_bins(rows, options.target_length).ravel()
                bins[unknown], measured[unknown] = np.nan, False
            pooled[rows] = np.where(unknown, np.nan, before_clips).reshape(-1, shape[1])
            measured_bases[rows] = measured.reshape(-1, options.span).sum(axis=1)
            zeros += int(np.count_nonzero((values == 0) & measured))
            targets[rows], beyond = to_float16(bins.reshape(-1, options.target_length))
            saturated += beyond
        past_end = describe_past_end(reader.past_end())
    return _Bins(targets, pooled, measured_bases, zeros, saturated, total, negative, past_end)


class _WindowReader:
    """Reads the coverage of targets, with the bases of the blacklist brought down."""

    def __init__(
        self,
        file: Coverage,
        track: Track,
        options: DatasetOptions,
        plan: DatasetPlan,
        blacklist: Mask,
        transform: Transform,
    ):
        self._file, self._track = file, track
        self._transform, self._blacklist = transform, blacklist
        self._num_bins = options.target_length
        self._margin = (options.seq_length - options.span) // 2
        self._lengths = plan.lengths
        self._chroms = dict.fromkeys(window.chrom for window in plan.windows)
        self._name_in_file = {plan.aliases.get(name, name): name for name in file.contigs}

    def read(self, targets: Sequence[Interval]) -> np.ndarray:
        """Return float32 [targets, bases] of targets on one contig, NaN where missing."""
        chrom = targets[0].chrom
        starts = np.array([target.start for target in targets])
        values = self._coverage(chrom, starts, targets[0].end - targets[0].start)
        for row, target in enumerate(targets):
            if self._blacklist.touches(chrom, target.start, target.end):
                values[row] = self._mask_blacklisted(values[row], target)
        return values

    def _mask_blacklisted(self, values: np.ndarray, target: Interval) -> np.ndarray:
        blacklisted = self._blacklist.bases(target.chrom, target.start, target.end)
        # Past the ends of the contig there is no coverage to take a percentile of.
        start = max(target.start - self._margin, 0)
        end = min(target.end + self._margin, self._lengths[target.chrom])
        window = self._coverage(target.chrom, np.array([start]), end - start)[0]
        return self._transform.mask_blacklisted(values, blacklisted, window, self._num_bins)

    def past_end(self) -> dict[str, np.ndarray]:
        """Return what the file has past the ends of the contigs that carry windows."""
        names = {self._name_in_file.get(chrom): chrom for chrom in self._chroms}
        return self._file.past_end({n: self._lengths[known] for n, known in names.items() if n})

    def _coverage(self, chrom: str, starts: np.ndarray, width: int) -> np.ndarray:
        name = self._name_in_file.get(chrom)
        if name is None:
            return np.full((starts.size, width), self._file.background, dtype=np.float32)
        return signed(self._file.read_windows(name, starts, width), self._track)


def _batches(windows: Sequence[Interval], span: int) -> Iterator[slice]:
    """Yield the rows of windows in turn, of one contig each and so many as are read at a time."""
    first = 0
    for _, same in groupby(windows, key=lambda window: window.chrom):
        end = first + sum(1 for _ in same)
        size = max(_BASES_AT_A_TIME // span, 1)
        for start in range(first, end, size):
            yield slice(start, min(start + size, end))
        first = end


def _clip_unmappable(targets: np.ndarray, masks: WindowMasks) -> None:
    """Clip the unmappable bins of each window, float16 [bins], at a percentile of all its bins."""
    if masks.unmappable is None:
        return
    for row, bins in enumerate(targets):
        (unmappable,) = masks.unmappable_bins(slice(row, row + 1), bins.size)
        if unmappable.any():
            limit = np.percentile(bins.astype(np.float32), _UNMAPPABLE_PERCENTILE)
            bins[unmappable] = np.minimum(bins[unmappable], limit.astype(np.float16))


def _mean(targets: np.ndarray) -> float:
    """Return the mean of what was measured; NaN where nothing was."""
    measured = targets[~np.isnan(targets)]
    return float(measured.mean(dtype=np.float64)) if measured.size else float("nan")


def _mean_rows(plan: DatasetPlan) -> list[int]:
    train = [row for row, window in enumerate(plan.windows) if window.split == "train"]
    return train or list(range(len(plan.windows)))


def _warnings(track: Track, uncovered: list[str], negative: bool) -> list[str]:
    found = []
    if uncovered:
        found.append(f"has no value on {shorten(uncovered)}")
    if track.negative:
        found.append(f"has negative coverage, in {track.negative} bins: {NEGATIVE_TARGETS}")
    elif negative:
        found.append(f"has negative coverage, which the clip makes 0; {SIGN_CURE}")
    if track.saturated:
        found.append(f"has {track.saturated} bins beyond float16, cut to 65504")
    if track.mean == 0:
        found.append("is 0 in every window its mean is taken over")
    if np.isnan(track.mean):
        found.append("was not measured in any window its mean is taken over")
    return [f"track {track.identifier} {text}" for text in found]


def source_of(path: Path) -> Source:
    """Return name, size and SHA-256 of a file a dataset is made from."""
    return Source(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))
