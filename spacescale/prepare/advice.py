"""What a person must decide about a dataset: measured shares, clips, splits, names, blocks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from spacescale.console import aligned
from spacescale.genome.aliases import describe_tried, shorten
from spacescale.genome.tracks import Track
from spacescale.prepare.bin_summary import QUANTILES, BinSummary, bases_of_splits
from spacescale.prepare.options import DatasetOptions
from spacescale.prepare.plan import DatasetPlan

# Nothing is said of smaller shares.
_MUCH_UNMEASURED = 0.05
_MUCH_REMOVED = 0.05
_MUCH_OF_THE_GENOME = 0.01
_MUCH_OF_A_BLOCK = 0.1
# Bins so many times above a clip that takes hardly anything away are few, and would rule the loss.
_PILE_UP = 4
_MUCH_IN_A_BIN = 0.02
# A contig of this share of the bins is worth a word where it has so little of the others' signal.
_MUCH_OF_THE_BINS = 0.05
_QUIET = 0.2
# A file of which this share of the bases is 0 lists its zeros; others leave them out.
_LISTS_ZEROS = 0.01
_MOST_ROWS = 40

Looks = Sequence[tuple[Track, BinSummary]]


def advice(options: DatasetOptions, plan: DatasetPlan, looks: Looks) -> list[str]:
    """Return a table of the tracks that need a decision, and what to decide; none if nothing is.

    plan: with the windows that `looks` are of.
    """
    bases = bases_of_splits(plan.windows)
    measured = {
        track.index: sum(look.measured.values()) / sum(bases.values()) for track, look in looks
    }
    lines = [
        *_on_missing(options, looks, measured),
        *_on_clips(looks),
        *_on_contigs(options, plan),
        *_on_quiet_contigs(looks),
        *_on_splits(looks, bases),
        *_on_blocks(options),
        *_on_names(options, plan),
    ]
    rows = [each for each in looks if _is_unmeasured(measured[each[0].index]) or _needs_clip(*each)]
    return [*_table(rows, measured), *(f"  decide: {line}" for line in lines)]


def _is_unmeasured(share: float) -> bool:
    return share < 1 - _MUCH_UNMEASURED


def _needs_clip(track: Track, look: BinSummary) -> bool:
    if track.clip is not None:
        return look.removed > _MUCH_REMOVED
    if track.clip_soft is not None or look.clip is None:
        return False
    return look.largest > _PILE_UP * look.clip


def _table(rows: Looks, measured: Mapping[int, float]) -> list[str]:
    """Return the lines of a table, a track a line."""
    if not rows:
        return []
    names = [f"{100 * q:g} %" for q in QUANTILES]
    cells = [["track", "measured", "of it 0", *names, "largest", "at", "clip", "removes", "better"]]
    for track, look in rows[:_MOST_ROWS]:
        better = f"{look.clip:g} ({_percent(look.clip_removes)})" if look.clip else "none"
        cells.append(
            [
                track.identifier[:24],
                _percent(measured[track.index]),
                _percent(look.zeros),
                *(_number(x) for x in (*look.quantiles, look.largest)),
                look.place,
                f"{track.clip:g}" if track.clip else "-",
                _percent(look.removed) if track.clip else "-",
                better if _needs_clip(track, look) else "",
            ]
        )
    more = [f"… and {len(rows) - _MOST_ROWS} more tracks"] if len(rows) > _MOST_ROWS else []
    return [f"  {line}" for line in [*aligned(cells), *more]]


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.3g}"


def _percent(share: float) -> str:
    if math.isnan(share):
        return "?"
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "<0.1 %"


def _on_missing(options: DatasetOptions, looks: Looks, measured: Mapping[int, float]) -> list[str]:
    """Say what --missing makes of tracks that cover little, by whether their files list zeros."""
    sparse = [each for each in looks if _is_unmeasured(measured[each[0].index])]
    with_zeros = [track.identifier for track, look in sparse if look.zeros >= _LISTS_ZEROS]
    without = [track.identifier for track, look in sparse if not look.zeros >= _LISTS_ZEROS]
    zero = options.missing == "zero"
    lines = []
    if with_zeros and zero:
        lines.append(
            f"--missing nan: {shorten(with_zeros)} leave bases out although they list zeros, too: "
            "what is left out was not measured, and counts as 0 now"
        )
    if without:
        what = "--missing zero (as now)" if zero else "--missing zero (now nan)"
        lines.append(
            f"{what}: {shorten(without)} list hardly a 0. If their writer leaves zeros out, what "
            "is missing is 0; if it was not measured, --missing nan"
        )
    return lines


def _on_clips(looks: Looks) -> list[str]:
    lines = []
    wanting = [track for track, look in looks if _needs_clip(track, look)]
    if none := [track.identifier for track in wanting if track.clip is None]:
        lines.append(
            f"clip, a column of the targets table: a few bins of {shorten(none)} lie far above all "
            "others and would rule the loss; that under 'better' takes little of the signal away"
        )
    if hard := [track.identifier for track in wanting if track.clip is not None]:
        lines.append(
            f"clip: that of {shorten(hard)} takes more than {_percent(_MUCH_REMOVED)} of the "
            "signal away; take that under 'better'"
        )
    if single := [
        f"{track.identifier} at {look.place} ({_percent(look.largest_share)})"
        for track, look in looks
        if look.largest_share > _MUCH_IN_A_BIN
    ]:
        lines.append(
            f"--blacklist: one bin holds much of the whole signal of {shorten(single, 3)}; where "
            "that is an artefact, such as rDNA, list it in a BED, or choose a lower clip"
        )
    return lines


def _on_contigs(options: DatasetOptions, plan: DatasetPlan) -> list[str]:
    """Say which contigs have no window only because some of the tracks lack them."""
    if options.missing == "nan":
        return []
    lacking = plan.report.contigs_without_tracks
    partly = [contig for contig, names in lacking.items() if names != ["every track"]]
    share = sum(plan.lengths[contig] for contig in partly) / sum(plan.lengths.values())
    if share < _MUCH_OF_THE_GENOME:
        return []
    return [
        f"--missing nan keeps {shorten(partly)}, {_percent(share)} of the genome, which only some "
        "of the tracks have; they get no window now"
    ]


def _on_quiet_contigs(looks: Looks) -> list[str]:
    """Name contigs on which most tracks have next to nothing: there reads may not map."""
    bins = Counter[str]()
    for _, look in looks:
        bins.update({contig: number for contig, (_, number) in look.levels.items()})
    lines = []
    for contig, number in bins.items():
        levels = [look.level_beside_others(contig) for _, look in looks]
        known = [level for level in levels if not math.isnan(level)]
        share = number / bins.total()
        if share < _MUCH_OF_THE_BINS or not known or median(known) > _QUIET:
            continue
        lines.append(
            f"contigs: {contig}, {_percent(share)} of the bins, has {median(known):.2g} of the "
            "signal of the others in the middle of the tracks; where reads do not map a model "
            "learns that there is nothing: leave it out of --contigs"
        )
    return lines


def _on_splits(looks: Looks, bases: Mapping[str, float]) -> list[str]:
    """Say what the splits hold of what was measured, where it is not as much as of the bases."""
    totals = {split: sum(look.measured.get(split, 0) for _, look in looks) for split in bases}
    lines = []
    if total := sum(totals.values()):
        by_measured = {split: totals[split] / total for split in bases}
        by_length = {split: found / sum(bases.values()) for split, found in bases.items()}
        if any(not 0.75 <= by_measured[split] / by_length[split] <= 4 / 3 for split in bases):
            told = ", ".join(
                f"{split} {_percent(by_measured[split])} ({_percent(by_length[split])})"
                for split in bases
            )
            lines.append(f"splits: of the measured bases, and in brackets of all bases: {told}")
    for split in bases:
        if dead := [track.identifier for track, look in looks if not look.measured.get(split)]:
            lines.append(f"splits: nothing was measured in {split} of {shorten(dead)}")
    return lines


def _on_blocks(options: DatasetOptions) -> list[str]:
    """Say what blocks lose that are no multiple of a target."""
    block, span = options.splits.random_blocks, options.span
    if not block or (block % span) / block <= _MUCH_OF_A_BLOCK:
        return []
    return [
        f"--random-blocks {block // span * span} or {(block // span + 1) * span}: blocks of "
        f"{block} bp hold {block // span} targets of {span} bp, and "
        f"{_percent(block % span / block)} of their bases are in no window"
    ]


def _on_names(options: DatasetOptions, plan: DatasetPlan) -> list[str]:
    """Say what `--aliases auto` left unmatched."""
    names = plan.report.extra_contigs
    if str(options.aliases) != "auto" or not names:
        return []
    return [
        f"names: --aliases auto leaves {shorten(list(names))} of the tracks out: "
        + describe_tried(dict.fromkeys(names), plan.lengths)
    ]
