"""Coverage of one track -> its targets in every window of a dataset."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spacescale.data.checksums import sha256
from spacescale.data.schema import Source
from spacescale.data.shard_options import ShardOptions
from spacescale.data.shard_plan import Plan, track_path
from spacescale.genome.aliases import shorten
from spacescale.genome.bigwig import BigWig
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import get_transform, to_float16


@dataclass(frozen=True)
class ReadTrack:
    """What reading one track told besides its targets; track: the row of tracks.tsv."""

    track: Track
    source: Source
    warnings: list[str]


def read_track(options: ShardOptions, plan: Plan, track: Track) -> tuple[np.ndarray, ReadTrack]:
    """Return the track's targets, float16 [windows, bins], and what there is to say of it."""
    path, transform = track_path(options, track), get_transform(options.transform)
    targets = np.empty((len(plan.windows), options.target_length), dtype=np.float16)
    covered: Counter[str] = Counter()
    saturated, negative = 0, False
    with BigWig(path) as file:
        name_in_track = {plan.aliases.get(name, name): name for name in file.contigs}
        for row, window in enumerate(plan.windows):
            values = file.read(name_in_track[window.chrom], window.start, window.end)
            covered[window.chrom] += int(np.count_nonzero(~np.isnan(values)))
            negative = negative or bool((values < 0).any())
            bins = transform.bins(values.reshape(-1, options.bin_size), track)
            targets[row], beyond = to_float16(bins)
            saturated += beyond
    targets = transform.finish(targets)
    finished = replace(
        track,
        file=path.name,
        covered=covered.total() / (len(plan.windows) * options.span),
        mean=float(targets[_mean_rows(plan)].mean(dtype=np.float64)),
        saturated=saturated,
    )
    uncovered = [chrom for chrom, bases in covered.items() if not bases]
    return targets, ReadTrack(finished, source_of(path), _warnings(finished, uncovered, negative))


def _mean_rows(plan: Plan) -> list[int]:
    train = [row for row, window in enumerate(plan.windows) if window.split == "train"]
    return train or list(range(len(plan.windows)))


def _warnings(track: Track, uncovered: list[str], negative: bool) -> list[str]:
    found = []
    if uncovered:
        found.append(f"has no value on {shorten(uncovered)}")
    if negative:
        found.append("has negative coverage")
    if track.saturated:
        found.append(f"has {track.saturated} bins beyond float16, cut to 65504")
    if track.mean == 0:
        found.append("is 0 in every window its mean is taken over")
    return [f"track {track.identifier} {text}" for text in found]


def source_of(path: Path) -> Source:
    """Return name, size and SHA-256 of a file a dataset is made from."""
    return Source(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))
