"""Which windows a dataset will hold: contigs matched between files, splits, tiling."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spacescale.arguments import given_path
from spacescale.dataset.schema import Contig, Report
from spacescale.dataset.sequence_splits import sequence_splits
from spacescale.errors import UserError
from spacescale.genome.aliases import (
    MAX_MISFIT_SHARE,
    describe_unknown,
    match_styles,
    read_aliases,
    shorten,
)
from spacescale.genome.contig_ends import describe_past_end
from spacescale.genome.coverage import MatchedContigs, TrackContigs, open_coverage
from spacescale.genome.interval_tracks import IntervalTrack, read_peaks
from spacescale.genome.intervals import Interval, tile, windows_per_split
from spacescale.genome.masks import Masks, masks_of
from spacescale.genome.sequence_files import Genome
from spacescale.genome.tracks import Track
from spacescale.genome.transforms import get_transform
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.sequence import place_contigs
from spacescale.splits.leakage import keep_apart, split_overlaps
from spacescale.splits.plan import (
    MAX_UNKNOWN_SHARE,
    Settings,
    SplitMethod,
    names_in_splits,
    plan_splits,
    unknown_share,
)

_MAX_NAMES_IN_REPORT = 20


@dataclass(frozen=True)
class DatasetPlan:
    """Windows to write (target intervals, in genome order) and how contigs are called.

    aliases: {name in tracks, splits or masks: name in the FASTA}, only where they differ.
    split_method, split_settings: as in the manifest. lengths: {contig of the genome: bp}.
    contigs: where those that are stored will lie. sequence: which split may use their bases, as
    `sequence_splits` gives it.
    """

    windows: list[Interval]
    contigs: list[Contig]
    sequence: list[Interval]
    split_method: SplitMethod
    split_settings: Settings
    aliases: dict[str, str]
    report: Report
    lengths: dict[str, int]

    def num_windows(self) -> dict[str, int]:
        """Windows per split, train, valid and test first."""
        return windows_per_split(self.windows)


def make_plan(options: DatasetOptions, genome: Genome, tracks: Sequence[Track]) -> DatasetPlan:
    """Check the files against each other and lay out the windows; reads no coverage."""
    lengths = genome.lengths
    transform = get_transform(options.transform)
    _refuse_missing_files(options, tracks)
    track_contigs: list[TrackContigs] = []
    for track in tracks:
        transform.check(track)
        with open_coverage(track_path(options, track), track) as coverage:
            track_contigs.append(TrackContigs.of(coverage))
    aliases = _aliases(options, track_contigs, lengths)
    beds = {name: read_peaks(path) for name, path in options.masks.items()}
    aliases |= _aliases_of_masks(options, beds, lengths, aliases, _names(track_contigs))
    of_tracks = [c.match_genome(genome.path, lengths, aliases) for c in track_contigs]
    of_masks = [
        TrackContigs.of(bed).match_genome(genome.path, lengths, aliases) for bed in beds.values()
    ]
    misfits = _misfits([*of_tracks, *of_masks])
    # With missing values kept apart from zero, one track that has a contig is enough.
    enough = any if options.missing == "nan" else all
    names_of_track = [found.covered for found in of_tracks]
    common = [
        c for c in lengths if c not in misfits and enough(c in names for names in names_of_track)
    ]
    asked_for = {aliases.get(name, name) for name in names_in_splits(options.splits)}
    # Tracks without any interval name none: then all contigs are in question.
    in_tracks = set.union(*(found.named for found in of_tracks)) or set(lengths)
    _refuse_misfits(misfits, asked_for, lengths, in_tracks)
    splits = plan_splits(
        options.splits, options.span, genome, aliases, common, offer_auto=options.aliases is None
    )
    masks = masks_of(beds, aliases)
    tiled, too_short, dropped = _tile(options, genome, masks, splits.intervals, set(common))
    windows = keep_apart(tiled, options.splits.margin) if options.splits.margin else tiled
    _refuse_empty_splits(options, splits.intervals, tiled, windows, common)
    taken = {interval.chrom for interval in splits.intervals}
    stored = lengths if options.whole_genome else dict.fromkeys(window.chrom for window in windows)
    contigs = place_contigs(lengths, stored)
    report = Report(
        dropped_unknown_bases=dropped["unknown bases"],
        dropped_gaps=dropped["gaps"],
        dropped_unmappable=dropped["unmappable"],
        dropped_near_other_split=len(tiled) - len(windows),
        split_overlaps=split_overlaps(windows, options.seq_length),
        contigs_without_tracks=_contigs_without_tracks(lengths, tracks, names_of_track),
        extra_contigs=_extra(track_contigs, lengths, aliases),
        too_short=too_short,
        unassigned=[name for name in common if name not in taken],
        ambiguous_bases=genome.num_ambiguous,
        warnings=[
            *splits.notes,
            *_notes_on_sequence(options, lengths, taken),
            *(_left_out(contig, texts) for contig, texts in misfits.items()),
            *_unused_rows(options, beds, lengths, aliases),
            *_notes_on_masks(beds, {c: lengths[c] for c in lengths if c not in misfits}, aliases),
        ],
    )
    return DatasetPlan(
        windows=windows,
        contigs=contigs,
        sequence=sequence_splits(contigs, splits.intervals, options.splits.margin),
        split_method=splits.method,
        split_settings=splits.settings,
        aliases=aliases,
        report=report,
        lengths=dict(lengths),
    )


def _refuse_missing_files(options: DatasetOptions, tracks: Sequence[Track]) -> None:
    if missing := [track for track in tracks if not track_path(options, track).is_file()]:
        first = missing[0]
        raise UserError(
            f"{options.targets}: {len(missing)} of the {len(tracks)} files of tracks are not "
            f"there, such as {track_path(options, first)} of {first.identifier}; a file is named "
            f"absolutely or relative to the table{_working_directory_hint(first)}"
        )


def _working_directory_hint(track: Track) -> str:
    if not given_path(track.file).is_file():
        return ""
    return f", and {track.file} is there only relative to the working directory, {Path.cwd()}"


def track_path(options: DatasetOptions, track: Track) -> Path:
    """Where the coverage of a track lies: absolute, or relative to the targets table.

    Raises UserError for a URL.
    """
    try:
        return options.targets.parent / given_path(track.file)
    except UserError as error:
        raise UserError(f"{options.targets}: the file of {track.identifier}: {error}") from None


def _aliases(
    options: DatasetOptions, track_contigs: list[TrackContigs], lengths: Mapping[str, int]
) -> dict[str, str]:
    if options.aliases is None:
        return {}
    if str(options.aliases) != "auto":
        return _aliases_of_file(options, track_contigs, lengths)
    aliases: dict[str, str] = {}
    for contigs in track_contigs:
        aliases.update(contigs.auto_aliases(lengths))
    # A name that a track has, too, is matched with its length or not at all.
    in_tracks = _names(track_contigs)
    named = [name for name in names_in_splits(options.splits) if name not in in_tracks]
    return aliases | match_styles(named, lengths)


def _aliases_of_file(
    options: DatasetOptions, track_contigs: list[TrackContigs], lengths: Mapping[str, int]
) -> dict[str, str]:
    """Return the rows of the aliases file that are needed: a public table lists thousands."""
    aliases = read_aliases(given_path(str(options.aliases)), lengths)
    named = _names(track_contigs).union(names_in_splits(options.splits))
    named.update(name for path in options.masks.values() for name in read_peaks(path).by_contig)
    return {name: contig for name, contig in aliases.items() if name in named}


def _names(track_contigs: list[TrackContigs]) -> set[str]:
    return {name for found in track_contigs for name in found.contigs}


def _aliases_of_masks(
    options: DatasetOptions,
    beds: Mapping[str, IntervalTrack],
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
    in_tracks: set[str],
) -> dict[str, str]:
    """Return the aliases that the masks need besides those there are.

    in_tracks: names that tracks have; as in the splits, they are matched with their length only.
    """
    if str(options.aliases) != "auto":
        return {}
    found: dict[str, str] = {}
    for bed in beds.values():
        found |= TrackContigs.of(bed).auto_aliases(lengths)
    return {n: known for n, known in found.items() if n not in in_tracks and n not in aliases}


def _misfits(files: Sequence[MatchedContigs]) -> dict[str, list[str]]:
    """Return {contig of the genome: what each file with another length of it tells}."""
    misfits: dict[str, list[str]] = {}
    for found in files:
        for contig, text in found.misfits.items():
            misfits.setdefault(contig, []).append(text)
    return misfits


def _refuse_misfits(
    misfits: Mapping[str, Sequence[str]],
    asked_for: set[str],
    lengths: Mapping[str, int],
    in_tracks: set[str],
) -> None:
    """Refuse contigs of another length that a split names, or that hold more than a few bases.

    Others, such as one of the two chrM of hg19, are left out: nothing asks for them, and with
    another assembly hardly any length would be the same.
    """
    for contig, texts in misfits.items():
        if contig in asked_for:
            raise UserError(f"{texts[0]}: assembly mismatch? A split asks for {contig}")
    bases = sum(lengths[contig] for contig in misfits)
    if bases > MAX_MISFIT_SHARE * sum(lengths[contig] for contig in in_tracks):
        raise UserError(f"{next(iter(misfits.values()))[0]}: assembly mismatch?")


def _notes_on_sequence(
    options: DatasetOptions, lengths: Mapping[str, int], taken: set[str]
) -> list[str]:
    """Name contigs that are stored because they were asked for, and of use to no split."""
    names = [name for name in lengths if name not in taken]
    if not options.whole_genome or not names:
        return []
    bases = sum(lengths[name] for name in names)
    return [
        f"--whole-genome: the splits do not name {shorten(names)}, so none may use their "
        f"{bases:,} bases"
    ]


def _left_out(contig: str, texts: Sequence[str]) -> str:
    others = f", and likewise {len(texts) - 1} more files" if len(texts) > 1 else ""
    return f"{contig} is left out, of another length: {texts[0]}{others}"


def _unused_rows(
    options: DatasetOptions,
    beds: Mapping[str, IntervalTrack],
    lengths: Mapping[str, int],
    aliases: Mapping[str, str],
) -> list[str]:
    """Name the contigs of masks that the genome lacks: their intervals mask nothing."""
    notes = []
    for name, bed in beds.items():
        lost = [n for n in bed.by_contig if aliases.get(n, n) not in lengths]
        if not lost:
            continue
        stretches = sum(len(bed.by_contig[n].starts) for n in lost)
        total = sum(len(found.starts) for found in bed.by_contig.values())
        unknown = describe_unknown(lost, lengths, offer_auto=options.aliases is None)
        unused = f"{stretches} of its {total} stretches mask nothing"
        notes.append(f"--{name} {bed.path.name}: {unused}: {unknown}")
    return notes


def _notes_on_masks(
    beds: Mapping[str, IntervalTrack], lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> list[str]:
    """Say which masks mask nothing, and which have intervals past the ends of contigs.

    lengths: of the contigs that are not left out.
    """
    notes = []
    for mask, bed in beds.items():
        known = {name: aliases.get(name, name) for name in bed.contigs}
        shared = {name: lengths[contig] for name, contig in known.items() if contig in lengths}
        if not bed.contigs:
            notes.append(f"--{mask} {bed.path.name} lists no interval: it masks nothing")
        elif past_end := describe_past_end(bed.past_end(shared)):
            notes.append(f"--{mask} {bed.path.name} {past_end}")
    return notes


def _tile(
    options: DatasetOptions,
    genome: Genome,
    masks: Masks,
    intervals: list[Interval],
    common: set[str],
) -> tuple[list[Interval], list[str], Counter[str]]:
    """Return the windows, the intervals too short for one, and {reason: windows left out}."""
    order = {name: position for position, name in enumerate(genome.contigs)}
    windows, too_short = [], []
    dropped: Counter[str] = Counter()
    for interval in sorted(intervals, key=lambda i: (order[i.chrom], i.start)):
        if interval.chrom not in common:
            continue
        # Held-out windows never overlap, so that every position counts once in a score.
        stride = options.stride if interval.split == "train" else None
        tiles = list(tile(interval, options.span, stride or options.span))
        if not tiles:
            too_short.append(f"{interval.chrom}:{interval.start}-{interval.end}")
        for window in tiles:
            if reason := _reason_to_drop(options, genome, masks, window):
                dropped[reason] += 1
            else:
                windows.append(window)
    return windows, too_short, dropped


def _reason_to_drop(
    options: DatasetOptions, genome: Genome, masks: Masks, window: Interval
) -> str | None:
    if unknown_share(genome, window) > MAX_UNKNOWN_SHARE:
        return "unknown bases"
    if masks.in_gap(window):
        return "gaps"
    return "unmappable" if masks.is_unmappable(window, options.bin_size) else None


def _refuse_empty_splits(
    options: DatasetOptions,
    intervals: list[Interval],
    tiled: list[Interval],
    windows: list[Interval],
    common: list[str],
) -> None:
    filled = {window.split for window in windows}
    for split in dict.fromkeys(interval.split for interval in intervals):
        if split in filled:
            continue
        if any(window.split == split for window in tiled):
            raise UserError(
                f"split {split} has no window: all lie within the margin of "
                f"{options.splits.margin} bp of another split; choose a smaller --margin or "
                "longer stretches"
            )
        chroms = list(dict.fromkeys(i.chrom for i in intervals if i.split == split))
        if not set(chroms) & set(common):
            which = "any" if options.missing == "nan" else "every"
            raise UserError(
                f"split {split} has no window: no contig of {shorten(chroms)} is in {which} track; "
                f"contigs in {which} track: {shorten(common) or 'none'}"
            )
        raise UserError(
            f"split {split} has no window: a target spans {options.span} bp, and none of that "
            f"length with at most half N{_and_masks(options)} lies in {shorten(chroms)}"
        )


def _and_masks(options: DatasetOptions) -> str:
    texts = {"gaps": "no gap", "unmappable": "at most half unmappable"}
    return "".join(f" and {text}" for name, text in texts.items() if name in options.masks)


def _contigs_without_tracks(
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
    track_contigs: list[TrackContigs], lengths: Mapping[str, int], aliases: Mapping[str, str]
) -> dict[str, int]:
    names = (name for found in track_contigs for name in found.contigs)
    counts = Counter(name for name in names if aliases.get(name, name) not in lengths)
    return dict(sorted(counts.items()))
