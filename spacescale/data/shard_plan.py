"""Which windows a dataset will hold: contigs matched between files, splits, tiling."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spacescale.data.schema import Report
from spacescale.data.shard_options import ShardOptions
from spacescale.errors import UserError
from spacescale.genome import dna
from spacescale.genome.aliases import (
    auto_aliases,
    describe_unknown,
    match_styles,
    read_aliases,
    shorten,
)
from spacescale.genome.bigwig import BigWig
from spacescale.genome.intervals import Interval, bed_contigs, read_split_bed, tile
from spacescale.genome.sequence_files import Genome
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import get_transform

_MAX_UNKNOWN_SHARE = 0.5
_MAX_NAMES_IN_REPORT = 20


@dataclass(frozen=True)
class Plan:
    """Windows to write (target intervals, in genome order) and how contigs are called.

    aliases: {name in the tracks or the splits: name in the FASTA}, only where they differ.
    """

    windows: list[Interval]
    aliases: dict[str, str]
    report: Report

    def num_windows(self) -> dict[str, int]:
        """Windows per split, train, valid and test first."""
        counts = Counter(window.split for window in self.windows)
        order = [s for s in ("train", "valid", "test") if s in counts]
        return {s: counts[s] for s in order + sorted(counts.keys() - set(order))}


def make_plan(options: ShardOptions, genome: Genome, tracks: Sequence[Track]) -> Plan:
    """Check the files against each other and lay out the windows; reads no coverage."""
    lengths = genome.lengths
    transform = get_transform(options.transform)
    track_contigs: list[dict[str, int]] = []
    for track in tracks:
        transform.check(track)
        with BigWig(track_path(options, track)) as file:
            track_contigs.append(file.contigs)
    aliases = _aliases(options, track_contigs, lengths)
    names_of_track = [
        _match_contigs(track_path(options, track), contigs, genome, aliases)
        for track, contigs in zip(tracks, track_contigs, strict=True)
    ]
    common = [c for c in lengths if all(c in names for names in names_of_track)]
    warnings = []
    if not options.gives_splits:
        options, warning = _hold_out_two_contigs(options, genome, common)
        warnings.append(warning)
    intervals, unassigned = _split_intervals(options, lengths, aliases, common)
    windows, too_short, dropped = _tile(options, genome, intervals, set(common))
    _refuse_empty_splits(options, intervals, windows, common)
    report = Report(
        dropped_unknown_bases=dropped,
        contigs_without_tracks=_lacking(lengths, tracks, names_of_track),
        extra_contigs=_extra(track_contigs, lengths, aliases),
        too_short=too_short,
        unassigned=unassigned,
        ambiguous_bases=genome.num_ambiguous,
        warnings=warnings,
    )
    return Plan(windows, aliases, report)


def track_path(options: ShardOptions, track: Track) -> Path:
    """Where the coverage of a track lies: absolute, or relative to the targets table."""
    return options.targets.parent / track.file


def _aliases(
    options: ShardOptions, track_contigs: list[dict[str, int]], lengths: Mapping[str, int]
) -> dict[str, str]:
    if options.aliases is None:
        return {}
    if str(options.aliases) != "auto":
        return read_aliases(Path(options.aliases), lengths)
    aliases: dict[str, str] = {}
    for contigs in track_contigs:
        aliases.update(auto_aliases(contigs, lengths))
    # A name that a track has, too, is matched with its length or not at all.
    in_tracks = {name for contigs in track_contigs for name in contigs}
    named = [name for name in _names_in_splits(options) if name not in in_tracks]
    return aliases | match_styles(named, lengths)


def _names_in_splits(options: ShardOptions) -> list[str]:
    """Return the contig names that the user gave, as they stand in the BED or the options."""
    if options.contigs:
        return bed_contigs(options.contigs)
    return [name for names in options.chroms_of_split.values() for name in names]


def _match_contigs(
    path: Path, contigs: Mapping[str, int], genome: Genome, aliases: Mapping[str, str]
) -> set[str]:
    """Return the genome names of the contigs that the track shares with the genome."""
    lengths = genome.lengths
    shared = {name: aliases.get(name, name) for name in contigs}
    shared = {name: known for name, known in shared.items() if known in lengths}
    for name, known in shared.items():
        if contigs[name] != lengths[known]:
            raise UserError(
                f"{path}: contig {name} has {contigs[name]} bp, but {known} in {genome.path} has "
                f"{lengths[known]}: assembly mismatch?"
            )
    if shared:
        return set(shared.values())
    message = (
        f"{path} shares no contig name with {genome.path}: it has {shorten(contigs)}; "
        f"the FASTA has {shorten(lengths)}"
    )
    if same := auto_aliases(contigs, lengths):
        pairs = shorten([f"{name} = {known}" for name, known in same.items()])
        raise UserError(f"{message}. By name and length {pairs}: add --aliases auto")
    raise UserError(
        f"{message}. If it is the same assembly, add --aliases FILE with two columns, "
        "the name in the tracks and the name in the FASTA"
    )


def _split_intervals(
    options: ShardOptions,
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    common: list[str],
) -> tuple[list[Interval], list[str]]:
    """Return the intervals to tile, and the contigs with coverage that no split takes."""
    if options.contigs:
        offer_auto = options.aliases is None
        intervals = read_split_bed(options.contigs, lengths, aliases, offer_auto)
    else:
        split_of = _splits_by_name(options, lengths, aliases)
        intervals = [Interval(name, 0, lengths[name], s) for name, s in split_of.items()]
    taken = {interval.chrom for interval in intervals}
    return intervals, [name for name in common if name not in taken]


def _splits_by_name(
    options: ShardOptions, lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> dict[str, str]:
    _refuse_unknown_chroms(options, lengths, aliases)
    split_of: dict[str, str] = {}
    for split, names in options.chroms_of_split.items():
        for given in names:
            name = aliases.get(given, given)
            if split_of.setdefault(name, split) != split:
                raise UserError(f"contig {given} is in two splits, {split_of[name]} and {split}")
    if not options.train_chroms:
        split_of = {name: split_of.get(name, "train") for name in lengths}
    return split_of


def _refuse_unknown_chroms(
    options: ShardOptions, lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> None:
    unknown: dict[str, str] = {}
    for split, names in options.chroms_of_split.items():
        for name in names:
            if aliases.get(name, name) not in lengths:
                unknown.setdefault(name, f"--{split}-chroms")
    if unknown:
        where = ", ".join(dict.fromkeys(unknown.values()))
        offer_auto = options.aliases is None
        raise UserError(f"{where}: {describe_unknown(unknown, lengths, offer_auto)}")


def _hold_out_two_contigs(
    options: ShardOptions, genome: Genome, common: list[str]
) -> tuple[ShardOptions, str]:
    """Return options that hold out the two contigs nearest in length to 10 % of all, and a note.

    Only contigs that every track has and that hold a window count.
    """
    lengths = genome.lengths
    usable = [name for name in common if _has_window(genome, name, options.span)]
    if len(usable) < 3:
        raise UserError(
            "no splits given; held-out contigs must be chosen by you: --contigs BED with the "
            "columns chrom, start, end, split"
        )
    total = sum(lengths[name] for name in usable)
    test, valid, *_ = sorted(usable, key=lambda name: (abs(10 * lengths[name] - total), name))
    shares = {name: f"{name} ({100 * lengths[name] / total:.0f} %)" for name in (test, valid)}
    note = (
        f"no split was given, so test is {shares[test]} and valid {shares[valid]}: the contigs "
        "nearest to 10 % of the total; choose with --valid-chroms and --test-chroms, or with "
        "--contigs BED"
    )
    return replace(options, valid_chroms=(valid,), test_chroms=(test,)), note


def _has_window(genome: Genome, name: str, span: int) -> bool:
    contig = Interval(name, 0, genome.lengths[name], "")
    return any(_unknown_share(genome, w) <= _MAX_UNKNOWN_SHARE for w in tile(contig, span, span))


def _tile(
    options: ShardOptions, genome: Genome, intervals: list[Interval], common: set[str]
) -> tuple[list[Interval], list[str], int]:
    order = {name: position for position, name in enumerate(genome.contigs)}
    windows, too_short, dropped = [], [], 0
    for interval in sorted(intervals, key=lambda i: (order[i.chrom], i.start)):
        if interval.chrom not in common:
            continue
        # Held-out windows never overlap, so that every position counts once in a score.
        stride = options.stride if interval.split == "train" else None
        tiles = list(tile(interval, options.span, stride or options.span))
        if not tiles:
            too_short.append(f"{interval.chrom}:{interval.start}-{interval.end}")
        known = [w for w in tiles if _unknown_share(genome, w) <= _MAX_UNKNOWN_SHARE]
        dropped += len(tiles) - len(known)
        windows.extend(known)
    return windows, too_short, dropped


def _unknown_share(genome: Genome, window: Interval) -> float:
    codes = genome.contigs[window.chrom][window.start : window.end]
    return np.count_nonzero(codes == dna.N) / codes.size


def _refuse_empty_splits(
    options: ShardOptions, intervals: list[Interval], windows: list[Interval], common: list[str]
) -> None:
    filled = {window.split for window in windows}
    for split in dict.fromkeys(interval.split for interval in intervals):
        if split in filled:
            continue
        chroms = list(dict.fromkeys(i.chrom for i in intervals if i.split == split))
        if not set(chroms) & set(common):
            raise UserError(
                f"split {split} has no window: no contig of {shorten(chroms)} is in every track; "
                f"contigs in every track: {shorten(common) or 'none'}"
            )
        raise UserError(
            f"split {split} has no window: a target spans {options.span} bp, and none of that "
            f"length with at most half N lies in {shorten(chroms)}"
        )


def _lacking(
    lengths: Mapping[str, int], tracks: Sequence[Track], names_of_track: list[set[str]]
) -> dict[str, list[str]]:
    report = {}
    for contig in lengths:
        names = [
            track.identifier
            for track, known in zip(tracks, names_of_track, strict=True)
            if contig not in known
        ]
        if len(names) == len(tracks):
            names = ["every track"]
        elif len(names) > _MAX_NAMES_IN_REPORT:
            rest = len(names) - _MAX_NAMES_IN_REPORT
            names = [*names[:_MAX_NAMES_IN_REPORT], f"{rest} more"]
        if names:
            report[contig] = names
    return report


def _extra(
    track_contigs: list[dict[str, int]], lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> dict[str, int]:
    names = (name for contigs in track_contigs for name in contigs)
    counts = Counter(name for name in names if aliases.get(name, name) not in lengths)
    return dict(sorted(counts.items()))
